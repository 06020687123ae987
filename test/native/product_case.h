// Op cases of products with a packed weight.
#pragma once
#include "op_case.h"

namespace df::test {

struct ProductCase {
  DType dtype = DType::F32;
  Layout layout = Layout::Dense;
  bool bias = true, residual = false;
  float scale = 1;
  bool poisoned = false;   // NaN and infinity in x
  bool one_sign = false;   // nothing cancels: the worst case of an accumulation
};
std::string describe(const ProductCase& c);

/// linear or conv2d: of a backend, and the public op.
using Apply = std::function<void(Backend&, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e)>;
using Op = std::function<Tensor(const Tensor& x, const Weight& w, const Epilogue& e)>;

/// Fills in what errors are accepted. `x`, `w` and the epilogue are exact float32 copies; `apply` runs the product.
struct ProductInputs {
  Tensor x, w;
  Epilogue e;
  Apply apply;
};
using Tolerance = std::function<void(Expected& expected, const ProductInputs& inputs)>;
/// A sum of `terms` products: |error| <= c * eps * sum|a||b|.
Tolerance sum_tolerance(int64_t terms);

/// The call for an x of `x_shape` times a plain weight of `w_shape`, both drawn.
OpCall product(Random& random, const ProductCase& c, const Shape& x_shape, const Shape& w_shape, const Shape& y_shape,
               const Tolerance& tolerance, const Apply& apply, const Op& op);

}  // namespace df::test
