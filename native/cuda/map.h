// Kernels that compute values one by one: a thread takes one value of a row, or eight where addresses, strides and widths
// allow 16-byte accesses.
#pragma once
#include <initializer_list>

#include "cuda/gpu/host.cuh"
#include "ops/types.h"

namespace df::IF_CUDA_NAMESPACE {

/// Rows of a tensor of any floating dtype: converting costs less than the memory access, so that one kernel serves all.
struct Values {
  void* data = nullptr;
  int64_t stride = 0;  ///< elements
  DType dtype = DType::F32;
  bool add = false;  ///< `store` adds in float32 to what is there

  Values() = default;
  Values(const Tensor& t) : data(t.raw()), stride(t.defined() ? t.row_stride() : 0), dtype(t.dtype()) {}
  Values(const Gradient& g) : Values(g.into) { add = g.add; }
  GPU_FN bool defined() const { return data != nullptr; }

  template <int V> GPU_FN void load(int64_t row, int64_t column, float (&v)[V]) const {
    const int64_t at = row * stride + column;
    if (dtype == DType::F32) load_as<float>(at, v);
    else if (dtype == DType::BF16) load_as<gpu::bf16>(at, v);
    else load_as<gpu::f16>(at, v);
  }
  GPU_FN float at(int64_t row, int64_t column) const {
    float v[1];
    load(row, column, v);
    return v[0];
  }
  /// Rounds once.
  template <int V> GPU_FN void store(int64_t row, int64_t column, const float (&v)[V]) const {
    const int64_t at = row * stride + column;
    if (dtype == DType::F32) store_as<float>(at, v);
    else if (dtype == DType::BF16) store_as<gpu::bf16>(at, v);
    else store_as<gpu::f16>(at, v);
  }
  GPU_FN void put(int64_t row, int64_t column, float value) const {
    const float v[1] = {value};
    store(row, column, v);
  }
  template <int V> static GPU_FN void load_floats(const float* from, float (&v)[V]) { load_from(from, v); }
  template <int V> static GPU_FN void store_floats(float* to, const float (&v)[V]) { store_to(to, v); }

 private:
  template <class T> struct alignas(16) Block {
    T v[8];
  };
  template <class T, int V> static GPU_FN void load_from(const T* from, float (&v)[V]) {
    if constexpr (V == 8) {
      const Block<T> b = *reinterpret_cast<const Block<T>*>(from);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = gpu::to_float(b.v[i]);
    } else {
      v[0] = gpu::to_float(*from);
    }
  }
  template <class T, int V> static GPU_FN void store_to(T* to, const float (&v)[V]) {
    if constexpr (V == 8) {
      Block<T> b;
#pragma unroll
      for (int i = 0; i < 8; ++i) b.v[i] = gpu::from_float<T>(v[i]);
      *reinterpret_cast<Block<T>*>(to) = b;
    } else {
      *to = gpu::from_float<T>(v[0]);
    }
  }
  template <class T, int V> GPU_FN void load_as(int64_t at, float (&v)[V]) const {
    load_from(static_cast<const T*>(data) + at, v);
  }
  template <class T, int V> GPU_FN void store_as(int64_t at, const float (&v)[V]) const {
    T* to = static_cast<T*>(data) + at;
    float sum[V];
    if (add) load_from(to, sum);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] = add ? sum[i] + v[i] : v[i];
    store_to(to, sum);
  }
};

constexpr int kMapThreads = 256;

template <class Body, int V>
__global__ void __launch_bounds__(kMapThreads, 4) map_kernel(Body body, int64_t rows, int64_t groups) {
  const int64_t i = int64_t(blockIdx.x) * kMapThreads + threadIdx.x;
  if (i >= rows * groups) return;
  int64_t row = 0;
  if (rows > 1) row = rows * groups >> 32 ? i / groups : unsigned(i) / unsigned(groups);  // 64 bits take 5 times as long
  body.template run<V>(row, (i - row * groups) * V);
}

/// What a map runs over: the rows and columns of its tensors, which are one row when all are contiguous.
struct Plane {
  int64_t rows, columns;
  bool eights;  ///< 16-byte accesses are possible
};

/// `tensors` (some may be undefined) as they are: body.run gets the row.
inline Plane plane_of_rows(int64_t rows, int64_t columns, std::initializer_list<const Tensor*> tensors) {
  bool eights = columns % 8 == 0;
  for (const Tensor* t : tensors)
    if (t->defined())
      eights = eights && reinterpret_cast<uintptr_t>(t->raw()) % 16 == 0 &&
               (t->rows() == 1 || size_t(t->row_stride()) * dtype_size(t->dtype()) % 16 == 0);
  return {rows, columns, eights};
}
/// Of tensors of one shape.
inline Plane plane(std::initializer_list<const Tensor*> tensors) {
  const Tensor* any = nullptr;
  bool dense = true, aligned = true;
  for (const Tensor* t : tensors) {
    if (!t->defined()) continue;
    any = t;
    dense = dense && t->contiguous();
    aligned = aligned && reinterpret_cast<uintptr_t>(t->raw()) % 16 == 0;
  }
  if (dense) return {1, any->numel(), aligned && any->numel() % 8 == 0};
  return plane_of_rows(any->rows(), any->dim(-1), tensors);
}

/// body.run<V>(row, column) for the V values from there on, everywhere in the plane. V is 1 or 8.
template <class Body> void map(Device device, const Plane& p, const Body& body) {
  const int64_t groups = p.eights ? p.columns / 8 : p.columns;
  if (p.rows * groups == 0) return;
  gpu::launch(p.eights ? map_kernel<Body, 8> : map_kernel<Body, 1>, dim3(blocks_for(p.rows * groups, kMapThreads)),
              dim3(kMapThreads), 0, stream(device), body, p.rows, groups);
}
/// The same for a body that takes single values.
template <class Body> void map_single(Device device, int64_t rows, int64_t columns, const Body& body) {
  if (rows * columns == 0) return;
  gpu::launch(map_kernel<Body, 1>, dim3(blocks_for(rows * columns, kMapThreads)), dim3(kMapThreads), 0, stream(device),
              body, rows, columns);
}

}  // namespace df::IF_CUDA_NAMESPACE
