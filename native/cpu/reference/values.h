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
double activation_derivative(double v, Activation kind);
/// T5's bucket of a distance between two tokens, in [0, buckets) (transformers T5Attention._relative_position_bucket).
int64_t distance_bucket(int64_t key_minus_query, int64_t buckets, int max_distance);

/// The keys (or values) of all segments side by side, (B, Tk, C).
std::vector<double> load_segments(const AttentionParams& p, Tensor KeyValue::*member);

/// store_row, or the sum with what is there, rounded once; nothing when the gradient is not wanted.
void store_gradient_row(const Gradient& g, int64_t row, const double* values);

/// Adds the contributions leaf(item, element), in double, of all items to a parameter gradient: pairs of items rounded
/// to float32, then their tree (see ops/backend.h). Nothing when `gradient` is undefined.
template <class Leaf> void add_parameter_gradient(const Tensor& gradient, int64_t items, const Leaf& leaf) {
  if (!gradient.defined() || items == 0) return;
  float* data = gradient.data<float>();
  for (int64_t i = 0; i < gradient.numel(); i++)
    data[i] += tree_sum<float>(0, (items + 1) / 2, [&](int64_t pair) {
      const int64_t n = 2 * pair;
      return float(n + 1 < items ? leaf(n, i) + leaf(n + 1, i) : leaf(n, i));
    });
}

}  // namespace df::reference
