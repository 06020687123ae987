// Cases of ops that give the gradient of an activation: written, and added to what is there.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "op_case.h"

namespace df::test {

struct GradientOp {
  Shape shape;  ///< of the gradient
  DType dtype = DType::F32;
  std::vector<Tensor> inputs;
  std::function<void(Backend&, const Gradient&, const std::vector<Tensor>& inputs)> run;
  /// Per element, the largest error before the gradient is added and rounded, from the exact inputs and gradient.
  std::function<std::vector<double>(const std::vector<Tensor>& inputs, const Tensor& gradient)> error;
};

/// Adds the op cases NAME and "NAME add".
void add_gradient_op_cases(Suite& suite, const std::string& name, std::function<GradientOp(Random&)> make);

/// The largest error of the fast derivative of an activation at x, before it is multiplied by anything.
double derivative_error(double x, Activation kind);

}  // namespace df::test
