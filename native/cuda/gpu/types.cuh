// 16-bit storage types, the same on host and device, and their conversions (round to nearest even).
#pragma once
#include "cuda/gpu/platform.cuh"
#define GPU_HOST_FN __host__ __device__ __forceinline__

namespace GPU_NAMESPACE {

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

namespace detail {
template <class T> struct IsBf16 { static constexpr bool value = false; };
template <> struct IsBf16<bf16> { static constexpr bool value = true; };
}  // namespace detail

namespace detail {
GPU_HOST_FN float float_from_bits(uint32_t u) {
  union { uint32_t u; float f; } v{u};
  return v.f;
}
GPU_HOST_FN uint32_t bits_from_float(float f) {
  union { float f; uint32_t u; } v{f};
  return v.u;
}
}  // namespace detail

GPU_HOST_FN float to_float(float v) { return v; }
GPU_HOST_FN float to_float(bf16 v) { return detail::float_from_bits(uint32_t(v.bits) << 16); }
GPU_HOST_FN float to_float(f16 v) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(v.bits));
#else
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, e = (v.bits >> 10) & 31, m = v.bits & 1023;
  if (e == 31) return detail::float_from_bits(sign | 0x7f800000 | (m << 13));
  if (e == 0) return detail::float_from_bits(sign | detail::bits_from_float(float(m) * 0x1p-24f));
  return detail::float_from_bits(sign | ((e + 112) << 23) | (m << 13));
#endif
}

template <class T> GPU_HOST_FN T from_float(float v);
template <> GPU_HOST_FN float from_float<float>(float v) { return v; }
template <> GPU_HOST_FN bf16 from_float<bf16>(float v) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(v))};
#else
  const uint32_t u = detail::bits_from_float(v);
  if ((u & 0x7fffffff) > 0x7f800000) return {uint16_t(0x7fff)};
  return {uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
#endif
}
template <> GPU_HOST_FN f16 from_float<f16>(float v) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(v))};
#else
  const uint32_t u = detail::bits_from_float(v), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
  if (a > 0x7f800000) return {uint16_t(0x7fff)};
  if (a >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // from 65520 on: infinity
  if (a < 0x38800000)                                     // subnormal: let the float adder round
    return {uint16_t(sign | (detail::bits_from_float(detail::float_from_bits(a) + 0.5f) - 0x3f000000))};
  return {uint16_t(sign | ((a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13))};
#endif
}

// Two values in one register, the first in the low half.
template <class T> GPU_FN uint32_t pack2(float lo, float hi);
template <> GPU_FN uint32_t pack2<bf16>(float lo, float hi) {
#if defined(__CUDA_ARCH__)
  const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);  // one cvt.rn.bf16x2.f32
  return *reinterpret_cast<const uint32_t*>(&v);
#else
  return uint32_t(from_float<bf16>(lo).bits) | uint32_t(from_float<bf16>(hi).bits) << 16;
#endif
}
template <> GPU_FN uint32_t pack2<f16>(float lo, float hi) {
#if defined(__CUDA_ARCH__)
  const __half2 v = __floats2half2_rn(lo, hi);
  return *reinterpret_cast<const uint32_t*>(&v);
#else
  return uint32_t(from_float<f16>(lo).bits) | uint32_t(from_float<f16>(hi).bits) << 16;
#endif
}
template <class T> GPU_FN float2 unpack2(uint32_t v) {
  return make_float2(to_float(T{uint16_t(v)}), to_float(T{uint16_t(v >> 16)}));
}

// Eight 16-bit values, moved with one 16-byte access.
template <class T> struct alignas(16) Vec8 {
  T v[8];
};

}  // namespace GPU_NAMESPACE
