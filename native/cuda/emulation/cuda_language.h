// The part of the CUDA C++ language and library that kernels use, for g++ and clang++. See runtime.h.
#pragma once
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

#include "cuda/emulation/runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static
// Plain static shared memory keeps its contents from block to block here (no poison): prefer GPU_SHARED.
#define __shared__ static

#define threadIdx (::emu::thread_index())
#define blockIdx (::emu::block_index())
#define blockDim (::emu::block_extent())
#define gridDim (::emu::grid_extent())
constexpr int warpSize = 32;

struct dim3 : emu::Index3 {
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) { x = a, y = b, z = c; }
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

// ---- barriers and warp operations ----------------------------------------------------------------------------------
inline void __syncthreads(emu::Site site = EMU_HERE) { emu::barrier(0, 0, true, site); }
inline void __syncwarp(uint32_t mask = ~0u, emu::Site site = EMU_HERE) {
  emu::warp_collective(mask, [](void* const*, uint32_t) {}, nullptr, "__syncwarp", true, site);
}

namespace emu {
struct Shuffle {
  uint64_t value;
  int source;  // absolute lane
  uint64_t result;
};
void shuffle_action(void* const* args, uint32_t mask);
struct Vote {
  int64_t value;
  int64_t result;
};
void ballot_action(void* const* args, uint32_t mask);
void reduce_add_action(void* const* args, uint32_t mask);
void reduce_max_action(void* const* args, uint32_t mask);
void reduce_min_action(void* const* args, uint32_t mask);

template <class T>
T shuffle(uint32_t mask, T value, int source, const char* name, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  Shuffle s{0, source, 0};
  std::memcpy(&s.value, &value, sizeof(T));
  warp_collective(mask, shuffle_action, &s, name, false, site);
  std::memcpy(&value, &s.result, sizeof(T));
  return value;
}
inline int64_t vote(uint32_t mask, int64_t value, CollectiveAction act, const char* name, Site site) {
  Vote v{value, 0};
  warp_collective(mask, act, &v, name, false, site);
  return v.result;
}
inline int lane() { return int(linear_thread() & 31); }
}  // namespace emu

// Out-of-range sources return the lane's own value, as the hardware does.
template <class T>
T __shfl_sync(uint32_t mask, T v, int src, int width = 32, emu::Site site = EMU_HERE) {
  const int lane = emu::lane(), base = lane & ~(width - 1);
  return emu::shuffle(mask, v, base + (src & (width - 1)), "__shfl_sync", site);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T v, int xor_mask, int width = 32, emu::Site site = EMU_HERE) {
  const int lane = emu::lane(), base = lane & ~(width - 1), src = lane ^ xor_mask;
  return emu::shuffle(mask, v, src < base + width ? src : lane, "__shfl_xor_sync", site);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T v, unsigned delta, int width = 32, emu::Site site = EMU_HERE) {
  const int lane = emu::lane(), base = lane & ~(width - 1), src = lane + int(delta);
  return emu::shuffle(mask, v, src < base + width ? src : lane, "__shfl_down_sync", site);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T v, unsigned delta, int width = 32, emu::Site site = EMU_HERE) {
  const int lane = emu::lane(), base = lane & ~(width - 1), src = lane - int(delta);
  return emu::shuffle(mask, v, src >= base ? src : lane, "__shfl_up_sync", site);
}
inline unsigned __ballot_sync(uint32_t mask, int p, emu::Site site = EMU_HERE) {
  return unsigned(emu::vote(mask, p != 0, emu::ballot_action, "__ballot_sync", site));
}
inline int __any_sync(uint32_t mask, int p, emu::Site site = EMU_HERE) {
  return emu::vote(mask, p != 0, emu::ballot_action, "__any_sync", site) != 0;
}
inline int __all_sync(uint32_t mask, int p, emu::Site site = EMU_HERE) {
  return uint32_t(emu::vote(mask, p != 0, emu::ballot_action, "__all_sync", site)) == mask;
}
inline int __reduce_add_sync(uint32_t mask, int v, emu::Site site = EMU_HERE) {
  return int(emu::vote(mask, v, emu::reduce_add_action, "__reduce_add_sync", site));
}
inline int __reduce_max_sync(uint32_t mask, int v, emu::Site site = EMU_HERE) {
  return int(emu::vote(mask, v, emu::reduce_max_action, "__reduce_max_sync", site));
}
inline int __reduce_min_sync(uint32_t mask, int v, emu::Site site = EMU_HERE) {
  return int(emu::vote(mask, v, emu::reduce_min_action, "__reduce_min_sync", site));
}

// ---- atomics (relaxed, as in CUDA: they order nothing else) --------------------------------------------------------
template <class T>
T atomicAdd(T* p, T v) {
  T old;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  for (T next = old + v; !__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);)
    next = old + v;
  return old;
}
template <class T>
T atomicMax(T* p, T v) {
  T old;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  for (T next = old < v ? v : old; !__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);)
    next = old < v ? v : old;
  return old;
}
template <class T>
T atomicMin(T* p, T v) {
  T old;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  for (T next = v < old ? v : old; !__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);)
    next = v < old ? v : old;
  return old;
}
template <class T>
T atomicExch(T* p, T v) { T old; __atomic_exchange(p, &v, &old, __ATOMIC_RELAXED); return old; }
template <class T>
T atomicCAS(T* p, T expected, T v) {
  __atomic_compare_exchange(p, &expected, &v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

// ---- arithmetic ----------------------------------------------------------------------------------------------------
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __uint_as_float(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
inline uint32_t __float_as_uint(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }
template <class T> T __ldg(const T* p) { return *p; }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
