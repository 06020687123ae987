// Backward of the elementwise ops.
#include "cuda/cuda_backend.h"
#include "cuda/gpu/math.cuh"
#include "cuda/map.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

struct ActivateBackward {
  Values dx, dy, x;
  Activation kind;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float g[V], v[V];
    dy.load(row, column, g);
    x.load(row, column, v);
#pragma unroll
    for (int i = 0; i < V; ++i) g[i] *= gpu::activation_derivative(v[i], kind);
    dx.store(row, column, g);
  }
};

struct GatedActivateBackward {
  Values dgate, dup, dy, gate, up;
  Activation kind;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float g[V], v[V], u[V];
    dy.load(row, column, g);
    gate.load(row, column, v);
    if (dgate.defined()) {
      up.load(row, column, u);
#pragma unroll
      for (int i = 0; i < V; ++i) u[i] = g[i] * u[i] * gpu::activation_derivative(v[i], kind);
      dgate.store(row, column, u);
    }
    if (dup.defined()) {
#pragma unroll
      for (int i = 0; i < V; ++i) u[i] = g[i] * gpu::activate(v[i], kind);
      dup.store(row, column, u);
    }
  }
};

struct Scale {
  Values dx;
  float a;
  Values dy;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float v[V];
    dy.load(row, column, v);
#pragma unroll
    for (float& e : v) e *= a;
    dx.store(row, column, v);
  }
};

}  // namespace

void CudaBackend::activation_backward(Gradient dx, const Tensor& dy, const Tensor& x, Activation kind) {
  if (dx.wanted()) map(x.device(), plane({&dx.into, &dy, &x}), ActivateBackward{dx, dy, x, kind});
}

void CudaBackend::gated_activation_backward(Gradient dgate, Gradient dup, const Tensor& dy, const Tensor& gate,
                                            const Tensor& up, Activation kind) {
  if (!dgate.wanted() && !dup.wanted()) return;
  map(gate.device(), plane({&dgate.into, &dup.into, &dy, &gate, &up}),
      GatedActivateBackward{dgate, dup, dy, gate, up, kind});
}

void CudaBackend::scale_backward(Gradient dx, float a, const Tensor& dy) {
  if (dx.wanted()) map(dy.device(), plane({&dx.into, &dy}), Scale{dx, a, dy});
}

}  // namespace df::IF_CUDA_NAMESPACE
