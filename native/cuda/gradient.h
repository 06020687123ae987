// Where a kernel puts the gradient of an activation.
#pragma once
#include "cuda/gpu/host.cuh"
#include "ops/types.h"

namespace df::IF_CUDA_NAMESPACE {

/// A Gradient as a kernel sees it.
template <class T> struct Into {
  Rows<T> rows;
  bool add;
  explicit Into(const Gradient& g) : rows(df::IF_CUDA_NAMESPACE::rows<T>(g.into)), add(g.add) {}
  GPU_FN bool wanted() const { return rows.data != nullptr; }
  /// Written, or added in float32 and rounded once.
  GPU_FN void store(int64_t row, int64_t column, float v) const {
    T& to = rows[row][column];
    to = gpu::from_float<T>(add ? gpu::to_float(to) + v : v);
  }
};

}  // namespace df::IF_CUDA_NAMESPACE
