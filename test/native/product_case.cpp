#include "product_case.h"

#include <cmath>

#include "ops/ops.h"

namespace df::test {
namespace {

Tensor run_oracle(const ProductInputs& in, const Shape& shape) {
  return oracle(shape, [&](Backend& backend, Tensor& y) {
    in.apply(backend, y, in.x, backend.pack(in.w, DType::F32), in.e);
  });
}

}  // namespace

std::string describe(const ProductCase& c) {
  return format("%s%s%s%s%s%s%s", dtype_name(c.dtype), layout_name(c.layout),
                c.bias ? " bias" : "", c.residual ? " residual" : "", c.scale != 1 ? " scale" : "",
                c.poisoned ? " nan" : "", c.one_sign ? " one_sign" : "");
}

Tolerance sum_tolerance(int64_t terms) {
  return [=](Expected& expected, const ProductInputs& in) {
    const Epilogue e{magnitude(in.e.bias), magnitude(in.e.residual), std::abs(in.e.scale)};
    const Tensor sum = run_oracle({magnitude(in.x), magnitude(in.w), e, in.apply}, expected.values.shape());
    expected.error = scaled(sum, accumulation_error(terms));
  };
}

OpCall product(Random& random, const ProductCase& c, const Shape& x_shape, const Shape& w_shape, const Shape& y_shape,
               const Tolerance& tolerance, const Apply& apply, const Op& op) {
  const double low = c.one_sign ? 0 : -1;
  const Tensor x = random_tensor(random, x_shape, c.dtype, c.layout, low, 1);
  if (c.poisoned) poison(x);
  const Tensor w = random_tensor(random, w_shape, c.dtype, Layout::Dense, low, 1);
  Epilogue e;
  e.scale = c.scale;
  if (c.bias) e.bias = random_tensor(random, {w_shape[0]}, DType::F32, Layout::Dense, low, 1);
  if (c.residual) e.residual = random_tensor(random, y_shape, c.dtype, c.layout, low, 1);

  OpCall call;
  call.shape = y_shape;
  call.dtype = c.dtype;
  call.product = c.dtype != DType::F32;
  call.vectors = call.product && c.layout == Layout::Aligned;
  call.run = [=](Backend& backend, Tensor& y) { apply(backend, y, x, backend.pack(w, c.dtype), e); };
  call.op = [=](Device device) {
    return op(on(x, device), ops::pack(on(w, device), c.dtype), {on(e.bias, device), on(e.residual, device), e.scale});
  };
  call.expected = [=] {
    const ProductInputs inputs{exact(x), exact(w), {exact(e.bias), exact(e.residual), e.scale}, apply};
    Expected expected;
    expected.values = run_oracle(inputs, y_shape);
    tolerance(expected, inputs);
    return expected;
  };
  return call;
}

}  // namespace df::test
