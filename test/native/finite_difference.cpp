#include "finite_difference.h"

#include <cmath>

#include "cpu/reference/values.h"
#include "op_case.h"

namespace df::test {
namespace {

struct Difference {
  double central = 0;   // (L(x + h·d) - L(x - h·d)) / 2h
  double gradient = 0;  // the same by the gradient, for the steps that float32 allowed
  double rounding = 0;  // of the results
};

// Σ weights · y, and the largest error from rounding y.
double combine(const Tensor& y, const std::vector<double>& weights, double& rounding) {
  const auto values = reference::load(y);
  double total = 0;
  for (size_t i = 0; i < values.size(); i++) {
    total += weights[i] * values[i];
    rounding += kFloat * std::abs(weights[i] * values[i]);
  }
  return total;
}

}  // namespace

std::string gradient_mismatch(Random& random, const Differentiable& f) {
  const Tensor y = f.forward(f.inputs);
  Tensor dy = Tensor::empty(y.shape(), DType::F32, kCpu);
  fill(dy, [&](int64_t) { return random.uniform(-1, 1); });
  const auto weights = reference::load(dy);
  const std::vector<Tensor> gradients = f.backward(f.inputs, dy);
  CHECK(gradients.size() == f.inputs.size());

  std::vector<std::vector<double>> x, g, direction;
  double size = 0, gradient_rounding = 0;
  for (size_t i = 0; i < f.inputs.size(); i++) {
    x.push_back(reference::load(f.inputs[i]));
    g.push_back(reference::load(gradients[i]));
    direction.emplace_back();
    if (!gradients[i].defined()) continue;
    CHECK(gradients[i].shape() == f.inputs[i].shape());
    for (double v : g[i]) {
      const double d = random.uniform(-1, 1);
      direction[i].push_back(d);
      size += v * d * v * d;
      gradient_rounding += kFloat * std::abs(v * d);
    }
  }
  size = std::sqrt(size);

  const auto difference = [&](double h) {
    std::vector<Tensor> up = f.inputs, down = f.inputs;
    Difference r;
    for (size_t i = 0; i < f.inputs.size(); i++) {
      if (!gradients[i].defined()) continue;
      up[i] = Tensor::empty(f.inputs[i].shape(), DType::F32, kCpu);
      down[i] = Tensor::empty(f.inputs[i].shape(), DType::F32, kCpu);
      fill(up[i], [&](int64_t e) { return x[i][size_t(e)] + h * direction[i][size_t(e)]; });
      fill(down[i], [&](int64_t e) { return x[i][size_t(e)] - h * direction[i][size_t(e)]; });
      const auto high = reference::load(up[i]), low = reference::load(down[i]);
      for (size_t e = 0; e < high.size(); e++) r.gradient += g[i][e] * (high[e] - low[e]) / (2 * h);
    }
    const double high = combine(f.forward(up), weights, r.rounding), low = combine(f.forward(down), weights, r.rounding);
    r.central = (high - low) / (2 * h);
    r.rounding /= 2 * h;
    return r;
  };
  const Difference one = difference(f.step), two = difference(2 * f.step);
  // central - gradient = c·h² + O(h⁴) when the gradient is right; c·h² is a third of what doubling h changes
  const double error = one.central - one.gradient, doubled = two.central - two.gradient;
  const double tolerance = 2 * std::abs(doubled - error) / 3 + one.rounding + gradient_rounding;
  if (!(tolerance <= 0.01 * size))
    return format("the tolerance %.3g is too large for a gradient of size %.3g: choose another step than %g", tolerance,
                  size, f.step);
  if (!(std::abs(error) <= tolerance))
    return format("central difference %.9g, gradient %.9g, allowed difference %.3g, %.1f times that", one.central,
                  one.gradient, tolerance, std::abs(error) / tolerance);
  return "";
}

void add_gradient_case(Suite& suite, const std::string& name, std::function<Differentiable(Random&)> make) {
  suite.add(name, [=] {
    Random random(name);
    const Differentiable f = make(random);
    const std::string error = gradient_mismatch(random, f);
    if (!error.empty()) fail_case("%s", error.c_str());
  });
}

}  // namespace df::test
