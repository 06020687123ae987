#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace df {

enum class DType : uint8_t { F32, BF16, F16, I32, I64, U8 };

constexpr size_t dtype_size(DType t) {
  return t == DType::I64 ? 8 : t == DType::F32 || t == DType::I32 ? 4 : t == DType::U8 ? 1 : 2;
}
/// "f32", "bf16", "f16", "i32", "i64", "u8".
const char* dtype_name(DType t);
/// The dtype of such a name, if it is one.
std::optional<DType> dtype_named(std::string_view name);

/// Raw bits of a bfloat16 or float16; arithmetic is done in float.
struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

inline float to_float(float v) { return v; }
inline float to_float(BFloat16 v) {
  const uint32_t u = uint32_t(v.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
float to_float(Float16 v);

/// Round to nearest even; NaN stays NaN (a plain add of 0x7fff could turn it into infinity).
inline BFloat16 to_bfloat16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t((u >> 16) | 0x40)};
  return {uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}
Float16 to_float16(float f);

template <class T> T from_float(float f);
template <> inline float from_float<float>(float f) { return f; }
template <> inline BFloat16 from_float<BFloat16>(float f) { return to_bfloat16(f); }
template <> inline Float16 from_float<Float16>(float f) { return to_float16(f); }

template <class T> constexpr DType dtype_of();
template <> constexpr DType dtype_of<float>() { return DType::F32; }
template <> constexpr DType dtype_of<BFloat16>() { return DType::BF16; }
template <> constexpr DType dtype_of<Float16>() { return DType::F16; }
template <> constexpr DType dtype_of<int32_t>() { return DType::I32; }
template <> constexpr DType dtype_of<int64_t>() { return DType::I64; }
template <> constexpr DType dtype_of<uint8_t>() { return DType::U8; }

/// Unit roundoff of a floating type: 2^-24, 2^-8, 2^-11.
constexpr double dtype_epsilon(DType t) {
  return t == DType::BF16 ? 1.0 / 256 : t == DType::F16 ? 1.0 / 2048 : 1.0 / 16777216;
}

}  // namespace df
