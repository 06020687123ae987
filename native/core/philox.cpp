// Compiled without contraction of a * b + c (CMakeLists.txt) and without libm but for the exactly rounded square root:
// the bits must not depend on the machine.
#include "core/philox.h"

#include <cmath>
#include <cstring>

namespace df {
namespace {

/// ln(u) for u in [2^-33, 1], relative error 2e-7: u = 2^e · (1 + f) with 1 + f in [√½, √2), and ln(1 + f) =
/// f - f²/2 + f³ P(f), P a minimax fit (6e-9 of f).
float logarithm(float u) {
  uint32_t bits;
  std::memcpy(&bits, &u, 4);
  const int32_t e = int32_t(bits - 0x3f3504f3u) >> 23;  // 0x3f3504f3 is √½
  bits -= uint32_t(e) << 23;
  float m;
  std::memcpy(&m, &bits, 4);
  const float f = m - 1;
  float p = -7.859547579e-02f;
  p = p * f + 1.288162499e-01f;
  p = p * f - 1.312876817e-01f;
  p = p * f + 1.418119579e-01f;
  p = p * f - 1.662455306e-01f;
  p = p * f + 2.000228610e-01f;
  p = p * f - 2.500081043e-01f;
  p = p * f + 3.333331673e-01f;
  const float ff = f * f;
  return float(e) * 0.693147181f + (f + (f * ff * p - 0.5f * ff));
}

/// Cosine and sine of `turns` / 2^32 of a turn, absolute error 1.5e-7: the nearest quarter turn is taken off exactly.
void circle(uint32_t turns, float* cosine, float* sine) {
  const uint32_t quarter = (turns + (1u << 29)) >> 30;
  const float x = float(int32_t(turns - (quarter << 30))) * 1.46291808e-9f, z = x * x;  // 2π / 2^32
  const float s = x + x * z * (-1.666665494e-01f + z * (8.332178135e-03f + z * -1.951729773e-04f));
  const float c = 1 - z * (0.5f - z * (4.166664687e-02f + z * (-1.388736750e-03f + z * 2.443844952e-05f)));
  const float values[4] = {c, -s, -c, s};  // cos(x + k π/2)
  *cosine = values[quarter & 3];
  *sine = values[(quarter + 3) & 3];
}

void box_muller(const uint32_t* words, float* out) {
  const float u = (float(words[0]) + 0.5f) * 0x1p-32f, radius = std::sqrt(-2 * logarithm(u));
  float c, s;
  circle(words[1], &c, &s);
  out[0] = radius * c;
  out[1] = radius * s;
}

/// Calls four(words, values) for the blocks that hold the numbers [first, first + n) and copies those.
template <class F> void fill(const Philox& stream, float* out, int64_t n, int64_t first, const F& four) {
  for (int64_t i = first; i < first + n;) {
    float values[4];
    four(stream.block(uint32_t(i / 4)), values);
    do {
      out[i - first] = values[i % 4];
    } while (++i < first + n && i % 4);
  }
}

}  // namespace

Philox::Philox(uint64_t seed, uint32_t purpose, uint64_t index)
    : key_{uint32_t(seed), uint32_t(seed >> 32)}, purpose_(purpose), index_(index) {}

std::array<uint32_t, 4> Philox::block(uint32_t number) const {
  std::array<uint32_t, 4> c = {number, purpose_, uint32_t(index_), uint32_t(index_ >> 32)};
  uint32_t k0 = key_[0], k1 = key_[1];
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t(0xd2511f53u) * c[0], b = uint64_t(0xcd9e8d57u) * c[2];
    c = {uint32_t(b >> 32) ^ c[1] ^ k0, uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k1, uint32_t(a)};
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return c;
}

void Philox::uniform(float* out, int64_t n, int64_t first) const {
  fill(*this, out, n, first, [](const std::array<uint32_t, 4>& words, float* values) {
    for (int i = 0; i < 4; i++) values[i] = float(words[size_t(i)] >> 8) * 0x1p-24f;
  });
}

void Philox::normal(float* out, int64_t n, int64_t first) const {
  fill(*this, out, n, first, [](const std::array<uint32_t, 4>& words, float* values) {
    box_muller(&words[0], values);
    box_muller(&words[2], values + 2);
  });
}

}  // namespace df
