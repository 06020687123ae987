#include "weight_gradient_case.h"

#include <cmath>
#include <cstring>

#include "cpu/reference/values.h"

namespace df::test {
namespace {

Tensor add_by_oracle(const WeightGradientInputs& in) {
  return oracle(in.dw.shape(), [&](Backend& backend, Tensor& dw) {
    std::memcpy(dw.raw(), in.dw.raw(), dw.bytes());
    backend.weight_gradient(dw, in.x, in.dy, in.p, in.scale);
  });
}

// Per channel of t: one of its values is not finite.
std::vector<bool> non_finite_channels(const Tensor& t) {
  const auto values = reference::load(t);
  std::vector<bool> found(size_t(t.dim(-1)), false);
  for (size_t i = 0; i < values.size(); i++)
    if (!std::isfinite(values[i])) found[i % found.size()] = true;
  return found;
}

}  // namespace

std::string describe(const WeightGradientCase& c) {
  return format("%s%s%s%s%s", dtype_name(c.dtype), c.layout == Layout::Strided ? " strided" : "",
                c.scale != 1 ? " scale" : "", c.poisoned ? " nan" : "", c.one_sign ? " one_sign" : "");
}

std::vector<double> gradient_sum_tolerance(const WeightGradientInputs& in) {
  const Tensor sum = add_by_oracle({magnitude(in.x), magnitude(in.dy), magnitude(in.dw), in.p, std::abs(in.scale)});
  return scaled(sum, accumulation_error(in.dy.rows()));
}

OpCall weight_gradient(Random& random, const WeightGradientCase& c, const Shape& dw_shape, const Shape& x_shape,
                       const Shape& dy_shape, const Conv2dParams& p, const GradientTolerance& tolerance) {
  const double low = c.one_sign ? 0 : -1;
  const Tensor x = random_tensor(random, x_shape, c.dtype, c.layout, low, 1);
  const Tensor dy = random_tensor(random, dy_shape, c.dtype, other(c.layout), low, 1);
  if (c.poisoned) poison(x), poison(dy);
  OpCall call;
  call.shape = dw_shape;
  call.strided = false;
  call.product = c.dtype == DType::BF16;
  call.initial = random_tensor(random, dw_shape, DType::F32, Layout::Dense, low, 1);
  const Tensor initial = call.initial;
  call.run = [=](Backend& backend, Tensor& dw) { backend.weight_gradient(dw, x, dy, p, c.scale); };
  call.expected = [=] {
    const WeightGradientInputs in{exact(x), exact(dy), initial, p, c.scale};
    Expected expected{add_by_oracle(in), tolerance(in)};
    const auto bad_x = non_finite_channels(x), bad_dy = non_finite_channels(dy);
    const int64_t taps = dw_shape.numel() / (dw_shape[0] * dw_shape[-1]);
    for (int64_t o = 0; o < dw_shape[0]; o++)
      for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t i = 0; i < dw_shape[-1]; i++)
          expected.may_be_non_finite.push_back(bad_x[size_t(i)] || bad_dy[size_t(o)]);
    return expected;
  };
  return call;
}

void add_replica_cases(Suite& suite, const std::string& name, int64_t items, const Shape& shape,
                       std::function<AddGradient(Random&)> make) {
  for (const KernelBackend& kernels : kernel_backends())
    suite.add(name + " replicas isa=" + kernels.name, [=] {
      Backend& backend = kernels.get();
      Random random(name);
      const AddGradient add = make(random);
      const auto part = [&](int64_t first, int64_t count) {
        Tensor dw = Tensor::zeros(shape, DType::F32, kCpu);
        add(backend, dw, first, count);
        return reference::load(dw);
      };
      struct Sum {
        std::vector<double> values;
        Sum operator+(const Sum& b) const {
          Sum s = *this;
          for (size_t i = 0; i < s.values.size(); i++) s.values[i] = float(s.values[i]) + float(b.values[i]);
          return s;
        }
      };
      const Tensor whole = tensor_of(shape, part(0, items));
      for (int64_t parts = 2; items % (2 * parts) == 0; parts *= 2) {
        const int64_t count = items / parts;
        const Sum sum = tree_sum<Sum>(0, parts, [&](int64_t i) { return Sum{part(i * count, count)}; });
        const std::string error = different_bits(tensor_of(shape, sum.values), whole);
        if (!error.empty()) fail_case("%lld replicas: %s", (long long)parts, error.c_str());
      }
    });
}

}  // namespace df::test
