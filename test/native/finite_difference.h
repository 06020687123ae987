// Gradients against central differences of what they are the gradients of.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "harness.h"
#include "tensors.h"

namespace df::test {

/// A function of float32 tensors and its backward function. The results of both must carry one float32 rounding per
/// element, as those of the reference backend do.
struct Differentiable {
  std::vector<Tensor> inputs;
  /// A float32 tensor of any shape.
  std::function<Tensor(const std::vector<Tensor>& inputs)> forward;
  /// The gradient of Σ dy · forward(inputs) for every input, float32 in its shape; an undefined one is not checked.
  std::function<std::vector<Tensor>(const std::vector<Tensor>& inputs, const Tensor& dy)> backward;
  double step = 1.0 / 64;  ///< largest change of an element; the inputs are of order 1
};

/// "" when the gradient in a random direction of all inputs, of a random combination of the results, agrees with
/// (L(x + h·d) - L(x - h·d)) / 2h, else what differs. The tolerance is twice the h² term, which step sizes h and 2h
/// tell, plus the rounding of the results, u · Σ|dy·y| / h, and of the gradient; it must be less than 1 % of the
/// gradient's size, or the check has no power and says so.
std::string gradient_mismatch(Random& random, const Differentiable& f);

/// Adds the case NAME, which fails on a mismatch. `make` builds the inputs when it runs.
void add_gradient_case(Suite& suite, const std::string& name, std::function<Differentiable(Random&)> make);

}  // namespace df::test
