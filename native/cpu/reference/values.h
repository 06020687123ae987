// How the reference backend reads and writes: a tensor is a dense array of doubles in between.
#pragma once
#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/tensor.h"
#include "ops/types.h"

namespace df::reference {

/// Calls f(T*) with the tensor's memory as f32, bf16 or f16. Throws INTERNAL for another dtype.
template <class F> void with_float_type(const Tensor& t, F f) {
  switch (t.dtype()) {
    case DType::F32: return f(t.data<float>());
    case DType::BF16: return f(t.data<BFloat16>());
    case DType::F16: return f(t.data<Float16>());
    default: fail(ErrorCode::Internal, "reference: %s is not a floating type", dtype_name(t.dtype()));
  }
}

/// All elements in row-major order, strides resolved; empty for an undefined tensor.
std::vector<double> load(const Tensor& x);
/// The same of a weight that the reference backend packed; int8 multiplied out (exact in double).
std::vector<double> load(const Weight& w);
/// Writes one row (the last dimension) of y, each value rounded to its dtype.
void store_row(const Tensor& y, int64_t row, const double* values);
double activate(double v, Activation kind);

}  // namespace df::reference
