// Conversions between float32, bf16 and f16.
#include <cmath>
#include <cstring>

#include "core/dtype.h"
#include "harness.h"

namespace df::test {
namespace {

float from_bits(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
uint32_t bits_of(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}

// The value that the format's definition gives these bits (IEEE 754-2019, section 3.4).
double decode(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const double mantissa = bits & ((1 << mantissa_bits) - 1), sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(std::ldexp(1, mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

// All 65536 patterns of T: reading, writing back, and the neighbourhood of every boundary between two values.
template <class T> void check_format(int exponent_bits, int mantissa_bits) {
  for (uint32_t b = 0; b < 65536; b++) {
    const uint16_t bits = uint16_t(b);
    const double value = decode(bits, exponent_bits, mantissa_bits);
    const float read = to_float(T{bits});
    if (std::isnan(value)) {
      CHECK(std::isnan(read));
      CHECK(std::isnan(to_float(from_float<T>(read))));
      continue;
    }
    CHECK(double(read) == value && std::signbit(read) == std::signbit(value));
    CHECK(from_float<T>(read).bits == bits);

    const uint16_t next = uint16_t(bits + 1);  // away from zero
    if (std::isinf(value)) continue;
    // overflow begins half a step above the largest value, as if the format went on
    double above = decode(next, exponent_bits, mantissa_bits);
    if (std::isinf(above)) above = 2 * value - decode(uint16_t(bits - 1), exponent_bits, mantissa_bits);
    const double middle = (value + above) / 2;
    const float half = float(middle);
    if (double(half) != middle) continue;  // below float32's own precision (bf16 subnormals)
    CHECK(from_float<T>(half).bits == (bits & 1 ? next : bits));  // ties to even
    CHECK(from_float<T>(from_bits(bits_of(half) - 1)).bits == bits);
    CHECK(from_float<T>(from_bits(bits_of(half) + 1)).bits == next);
  }
}

const Registration dtypes([](Suite& suite) {
  suite.add("dtype bf16: all patterns and roundings", [] { check_format<BFloat16>(8, 7); });
  suite.add("dtype f16: all patterns and roundings", [] { check_format<Float16>(5, 10); });
  suite.add("dtype NaN stays NaN whatever its payload", [] {
    for (uint32_t sign : {0u, 0x80000000u})
      for (int bit = 0; bit < 23; bit++) {
        const float nan = from_bits(sign | 0x7f800000u | 1u << bit);
        CHECK(std::isnan(to_float(to_bfloat16(nan))) && std::isnan(to_float(to_float16(nan))));
      }
    const float full = from_bits(0x7fffffffu);
    CHECK(std::isnan(to_float(to_bfloat16(full))) && std::isnan(to_float(to_float16(full))));
  });
  suite.add("dtype extremes of float32", [] {
    CHECK(to_bfloat16(3.4028235e38f).bits == 0x7f80 && to_bfloat16(-3.4028235e38f).bits == 0xff80);
    CHECK(to_float16(65504).bits == 0x7bff && to_float16(65519.996f).bits == 0x7bff &&
          to_float16(65520).bits == 0x7c00);
    CHECK(to_float16(1e30f).bits == 0x7c00 && to_float16(-1e30f).bits == 0xfc00);
    CHECK(to_float16(2.9802322e-8f).bits == 0 &&
          to_float16(2.9802326e-8f).bits == 1);  // half of the smallest subnormal
    CHECK(to_float16(-1e-30f).bits == 0x8000 && to_bfloat16(-0.0f).bits == 0x8000);
  });
  suite.add("dtype sizes, names and roundoffs", [] {
    CHECK(dtype_size(DType::F32) == 4 && dtype_size(DType::BF16) == 2 && dtype_size(DType::F16) == 2);
    CHECK(dtype_size(DType::I32) == 4 && dtype_size(DType::I64) == 8 && dtype_size(DType::U8) == 1);
    CHECK(std::string(dtype_name(DType::BF16)) == "bf16" && std::string(dtype_name(DType::I64)) == "i64");
    CHECK(dtype_epsilon(DType::F32) == 0x1p-24 && dtype_epsilon(DType::BF16) == 0x1p-8 &&
          dtype_epsilon(DType::F16) == 0x1p-11);
  });
});

}  // namespace
}  // namespace df::test
