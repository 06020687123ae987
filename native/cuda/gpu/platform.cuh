// One kernel source, two compilers: nvcc for the device, g++/clang++ for the tests of a machine without a GPU.
// Kernels include this and the gpu/ headers beside it, and never ask which compiler they meet.
#pragma once
#if defined(__CUDACC__)
#define GPU_NAMESPACE gpu
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#define GPU_EMULATED 0
#define GPU_FN __device__ __forceinline__
// Static shared memory: GPU_SHARED(float[32], partial);
#define GPU_SHARED(type, name) __shared__ typename ::GPU_NAMESPACE::detail::Identity<type>::Type name
#else
// A program may hold both builds of a kernel: they must not share the names of inline functions.
#define GPU_NAMESPACE gpu_emulated
#include "cuda/emulation/cuda_language.h"
#define GPU_EMULATED 1
#define GPU_FN inline
#define GPU_SHARED(type, name) \
  auto& name = *static_cast<typename ::GPU_NAMESPACE::detail::Identity<type>::Type*>(::emu::static_shared( \
      sizeof(typename ::GPU_NAMESPACE::detail::Identity<type>::Type), alignof(typename ::GPU_NAMESPACE::detail::Identity<type>::Type), EMU_HERE))
#endif

namespace GPU_NAMESPACE {}
#if GPU_EMULATED
namespace gpu = gpu_emulated;
#endif

namespace GPU_NAMESPACE {
namespace detail {
template <class T>
struct Identity {
  using Type = T;
};
}  // namespace detail

#if GPU_EMULATED
using Stream = void*;
#else
using Stream = cudaStream_t;
#endif

// The block's dynamic shared memory as one struct. Its size is what the launch must ask for.
template <class Layout>
GPU_FN Layout& dynamic_shared() {
#if GPU_EMULATED
  return *static_cast<Layout*>(emu::dynamic_shared(sizeof(Layout), alignof(Layout), EMU_HERE));
#else
  extern __shared__ __align__(1024) unsigned char raw_dynamic_shared[];
  return *reinterpret_cast<Layout*>(raw_dynamic_shared);
#endif
}

#if GPU_EMULATED
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream, A&&... args) {
  // Arguments are copied before the first thread runs, as a launch does.
  auto once = [=, copy = std::tuple<P...>(std::forward<A>(args)...)] {
    emu::launch("kernel", grid, block, shared_bytes, [&] { std::apply(kernel, copy); });
  };
  if (auto* recording = emu::settings().recording) recording->push_back(std::move(once));
  else once();
}
#else
/// Throws the df::Error of a CUDA status that is not success (host.cu).
void check(cudaError_t status);
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream, A&&... args) {
  if (shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes, config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, P(args)...));
}
#endif

}  // namespace GPU_NAMESPACE
