// The check of gradients itself: it accepts a right gradient and refuses wrong ones.
#include <cmath>

#include "cpu/reference/values.h"
#include "finite_difference.h"

namespace df::test {
namespace {

// y_i = a_i · exp(b_i), with its gradients multiplied by `factor_a` and `factor_b`.
Differentiable product(Random& random, double factor_a, double factor_b) {
  const Shape shape{5, 7};
  Differentiable f;
  f.inputs = {random_tensor(random, shape, DType::F32, Layout::Dense),
              random_tensor(random, shape, DType::F32, Layout::Dense)};
  const auto elementwise = [=](const std::vector<Tensor>& in, const std::function<double(double, double)>& value) {
    const auto a = reference::load(in[0]), b = reference::load(in[1]);
    std::vector<double> y(a.size());
    for (size_t i = 0; i < y.size(); i++) y[i] = value(a[i], b[i]);
    return tensor_of(shape, y);
  };
  f.forward = [=](const std::vector<Tensor>& in) {
    return elementwise(in, [](double a, double b) { return a * std::exp(b); });
  };
  f.backward = [=](const std::vector<Tensor>& in, const Tensor& dy) {
    const auto times_dy = [&](const Tensor& t, double factor) {
      const auto v = reference::load(t), d = reference::load(dy);
      std::vector<double> y(v.size());
      for (size_t i = 0; i < y.size(); i++) y[i] = factor * v[i] * d[i];
      return tensor_of(shape, y);
    };
    return std::vector<Tensor>{times_dy(elementwise(in, [](double, double b) { return std::exp(b); }), factor_a),
                               times_dy(elementwise(in, [](double a, double b) { return a * std::exp(b); }), factor_b)};
  };
  return f;
}

const Registration finite_differences([](Suite& suite) {
  add_gradient_case(suite, "finite difference accepts", [](Random& random) { return product(random, 1, 1); });
  suite.add("finite difference refuses", [] {
    for (double factor : {0.98, 1.02, -1.0, 0.0, double(NAN)}) {
      Random random("finite difference");
      CHECK(!gradient_mismatch(random, product(random, factor, 1)).empty());
      CHECK(!gradient_mismatch(random, product(random, 1, factor)).empty());
    }
    Random random("finite difference");
    Differentiable coarse = product(random, 1, 1);
    coarse.step = 1e-6;  // the rounding of the results drowns the difference
    CHECK(gradient_mismatch(random, coarse).find("too large") != std::string::npos);
  });
});

}  // namespace
}  // namespace df::test
