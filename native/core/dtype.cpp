#include "core/dtype.h"

#include <cmath>

namespace df {

const char* dtype_name(DType t) {
  switch (t) {
    case DType::F32: return "f32";
    case DType::BF16: return "bf16";
    case DType::F16: return "f16";
    case DType::I32: return "i32";
    case DType::I64: return "i64";
    case DType::U8: return "u8";
  }
  return "?";
}

std::optional<DType> dtype_named(std::string_view name) {
  for (const DType t : {DType::F32, DType::BF16, DType::F16, DType::I32, DType::I64, DType::U8})
    if (name == dtype_name(t)) return t;
  return std::nullopt;
}

float to_float(Float16 v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16;
  const uint32_t exponent = (v.bits >> 10) & 31, mantissa = v.bits & 1023;
  uint32_t u;
  if (exponent == 31) {
    u = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    u = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {  // zero or subnormal: mantissa * 2^-24 is exact in float
    const float f = std::ldexp(float(mantissa), -24);
    std::memcpy(&u, &f, 4);
    u |= sign;
  }
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

Float16 to_float16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000);
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return {uint16_t(sign | 0x7e00 | ((a >> 13) & 0x1ff))};
  if (a >= 0x477ff000u) return {uint16_t(sign | 0x7c00)};  // rounds to 65536 or more
  if (a < 0x38800000u) {                                   // below 2^-14: subnormal, units of 2^-24
    float m;
    std::memcpy(&m, &a, 4);
    return {uint16_t(sign | uint16_t(std::nearbyint(std::ldexp(m, 24))))};
  }
  const uint32_t rounded = a + 0xfff + ((a >> 13) & 1);
  return {uint16_t(sign | ((rounded - 0x38000000u) >> 13))};
}

}  // namespace df
