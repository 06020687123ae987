#include "gradient_case.h"

#include <algorithm>
#include <cmath>

#include "cpu/reference/values.h"

namespace df::test {

void add_gradient_op_cases(Suite& suite, const std::string& name, std::function<GradientOp(Random&)> make) {
  for (bool add : {false, true})
    add_op_case(suite, name + (add ? " add" : ""), [=](Random& random) {
      const GradientOp op = make(random);
      OpCall call;
      call.shape = op.shape;
      call.dtype = op.dtype;
      if (add) call.initial = random_tensor(random, op.shape, op.dtype, Layout::Dense);
      call.run = [=](Backend& b, Tensor& y) { op.run(b, {y, add}, op.inputs); };
      const Tensor initial = call.initial;
      call.expected = [=] {
        std::vector<Tensor> inputs;
        for (const Tensor& t : op.inputs) inputs.push_back(t.dtype() == DType::BF16 ? exact(t) : t);
        const Tensor g = oracle(op.shape, [&](Backend& b, Tensor& y) { op.run(b, {y, false}, inputs); });
        std::vector<double> error = op.error(inputs, g);
        if (!add) return Expected{g, error};
        auto sum = reference::load(g);
        const auto there = reference::load(initial);
        for (size_t i = 0; i < sum.size(); i++) {
          sum[i] += there[i];
          error[i] += 2 * kFloat * std::abs(sum[i]);  // of the sum here and of the expected one
        }
        return Expected{tensor_of(op.shape, sum), error};
      };
      return call;
    });
}

double derivative_error(double x, Activation kind) {
  // SiLU: σ + x σ(1-σ). GELU: Φ(x) + x φ(x), where Φ has a relative error of 4 units (kernels/math.h). The exponential,
  // the reciprocal and the sums add a few more. GeluTanh: σ(z) + x z' σ(1-σ), z rounded three times before exp.
  if (kind == Activation::None || !std::isfinite(x)) return 0;
  double first, second, units = 8, amplified = 1;  // amplified: what was flushed to zero before it met its factor
  if (kind == Activation::Gelu) {
    first = 0.5 * std::erfc(-x * M_SQRT1_2);
    second = x * std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
  } else {
    const double k = kind == Activation::Silu ? 0 : 2 * std::sqrt(2 / M_PI);
    const double z = k ? k * (x + 0.044715 * x * x * x) : x, slope = k ? k * (1 + 3 * 0.044715 * x * x) : 1;
    first = 1 / (1 + std::exp(-z));
    second = x * slope * first / (1 + std::exp(z));
    if (k) units += 3 * std::abs(z);
    amplified += std::abs(x * slope);
  }
  return units * kFloat * std::max(first, std::abs(second)) + amplified * kTiny;
}

}  // namespace df::test
