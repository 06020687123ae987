#include "core/random.h"

#include <cmath>
#include <utility>

namespace df {
namespace {
constexpr double kTwoPi = 6.283185307179586476925286766559;

// Values i and i + 8 of a block share one radius (normal_fill_16 of ATen's DistributionTemplates.h).
void box_muller_16(float* v) {
  for (int i = 0; i < 8; i++) {
    const float u1 = 1 - v[i], u2 = v[i + 8];
    const float radius = std::sqrt(-2 * std::log(u1)), theta = float(kTwoPi) * u2;
    v[i] = radius * std::cos(theta);
    v[i + 8] = radius * std::sin(theta);
  }
}
}  // namespace

TorchGenerator::TorchGenerator(uint64_t seed) {
  state_[0] = uint32_t(seed);
  for (uint32_t i = 1; i < 624; i++) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
}

// Matsumoto & Nishimura 1998.
uint32_t TorchGenerator::next() {
  if (index_ == 624) {
    for (int i = 0; i < 624; i++) {
      const uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % 624] & 0x7fffffffu);
      state_[i] = state_[(i + 397) % 624] ^ (y >> 1) ^ ((y & 1) ? 0x9908b0dfu : 0);
    }
    index_ = 0;
  }
  uint32_t y = state_[index_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

uint64_t TorchGenerator::next64() {
  const uint64_t high = next();
  return high << 32 | next();
}

void TorchGenerator::uniform(float* out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = float(next() & 0xffffffu) * (1.0f / 16777216);
}

void TorchGenerator::normal(float* out, int64_t n) {
  if (n >= 16) {
    uniform(out, n);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) box_muller_16(out + i);
    if (i < n) {  // the last 16 values are drawn anew
      uniform(out + n - 16, 16);
      box_muller_16(out + n - 16);
    }
    return;
  }
  const auto uniform53 = [&] { return double(next64() & ((uint64_t(1) << 53) - 1)) * 0x1p-53; };
  for (int64_t i = 0; i < n; i++) {
    if (has_cached_normal_) {
      has_cached_normal_ = false;
      out[i] = float(cached_normal_);
      continue;
    }
    const double u1 = uniform53(), u2 = uniform53();
    const double radius = std::sqrt(-2 * std::log1p(-u2)), theta = kTwoPi * u1;
    cached_normal_ = radius * std::sin(theta);
    has_cached_normal_ = true;
    out[i] = float(radius * std::cos(theta));
  }
}

void TorchGenerator::integers(int64_t* out, int64_t n, uint32_t high) {
  for (int64_t i = 0; i < n; i++) out[i] = next() % high;
}

void TorchGenerator::permutation(int64_t* out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = i;
  for (int64_t i = 0; i + 1 < n; i++) std::swap(out[i], out[i + int64_t(next() % uint64_t(n - i))]);
}

}  // namespace df
