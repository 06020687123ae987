// What the plain kernels of products and weight gradients share: the sums of a block over one step of K in shared memory.
#pragma once
#include "cuda/gpu/host.cuh"

namespace df::IF_CUDA_NAMESPACE {

/// acc[i][j] += Σ_k a[k][row0 + i] · b[k][column0 + j], k in order.
template <int Steps, int Width, int Rows, int Columns>
GPU_FN void add_step(float (&acc)[Rows][Columns], const float (&a)[Steps][Width], const float (&b)[Steps][Width], int row0,
                     int column0) {
  static_assert(Rows % 4 == 0 && Columns == 4 && Width % 4 == 0);
#pragma unroll 8
  for (int k = 0; k < Steps; k++) {
    float left[Rows], right[Columns];
#pragma unroll
    for (int i = 0; i < Rows; i += 4) *reinterpret_cast<float4*>(left + i) = *reinterpret_cast<const float4*>(&a[k][row0 + i]);
    *reinterpret_cast<float4*>(right) = *reinterpret_cast<const float4*>(&b[k][column0]);
#pragma unroll
    for (int i = 0; i < Rows; i++)
#pragma unroll
      for (int j = 0; j < Columns; j++) acc[i][j] += left[i] * right[j];
  }
}

}  // namespace df::IF_CUDA_NAMESPACE
