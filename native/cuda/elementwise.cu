// Activations and their like: one thread per value, or per eight.
#include "cuda/cuda_backend.h"
#include "cuda/gpu/math.cuh"
#include "cuda/map.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

struct Activate {
  Values y, x;
  Activation kind;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float v[V];
    x.load(row, column, v);
#pragma unroll
    for (float& e : v) e = gpu::activate(e, kind);
    y.store(row, column, v);
  }
};

struct GatedActivate {
  Values y, gate, up;
  Activation kind;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float v[V], u[V];
    gate.load(row, column, v);
    up.load(row, column, u);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = gpu::activate(v[i], kind) * u[i];
    y.store(row, column, v);
  }
};

struct Sum {
  Values y;
  float a;
  Values x;
  float b;
  Values z;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float v[V], w[V];
    x.load(row, column, v);
    z.load(row, column, w);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = a * v[i] + b * w[i];
    y.store(row, column, v);
  }
};

struct Copy {
  Values y, x;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float v[V];
    x.load(row, column, v);
    y.store(row, column, v);
  }
};

struct FindNotFinite {
  Values x;
  unsigned* found;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float v[V];
    x.load(row, column, v);
    bool finite = true;
#pragma unroll
    for (float e : v) finite = finite && fabsf(e) < INFINITY;
    if (!finite) atomicExch(found, 1u);
  }
};

}  // namespace

CudaBackend& backend() {
  static CudaBackend instance;
  return instance;
}

void CudaBackend::activation(Tensor& y, const Tensor& x, Activation kind) {
  map(x.device(), plane({&y, &x}), Activate{y, x, kind});
}

void CudaBackend::gated_activation(Tensor& y, const Tensor& gate, const Tensor& up, Activation kind) {
  map(gate.device(), plane({&y, &gate, &up}), GatedActivate{y, gate, up, kind});
}

void CudaBackend::axpby(Tensor& y, float a, const Tensor& x, float b, const Tensor& z) {
  map(x.device(), plane({&y, &x, &z}), Sum{y, a, x, b, z});
}

void CudaBackend::copy(Tensor& y, const Tensor& x) { map(x.device(), plane({&y, &x}), Copy{y, x}); }

bool CudaBackend::all_finite(const Tensor& x) {
  const Device device = x.device();
  const Tensor found = Tensor::empty({1}, DType::I32, device);
  set_zero(found.raw(), found.bytes(), stream(device));
  map(device, plane({&x}), FindNotFinite{x, static_cast<unsigned*>(found.raw())});
  unsigned result = 0;
  copy_to_host(&result, found.raw(), sizeof result, stream(device));
  return result == 0;
}

}  // namespace df::IF_CUDA_NAMESPACE
