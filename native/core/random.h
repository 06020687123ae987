// Random numbers: the generator of torch's CPU device, so that a seed gives the picture that diffusers gives.
#pragma once
#include <array>
#include <cstdint>

namespace df {

/// torch.Generator("cpu"): mt19937 seeded with the low 32 bits of `seed` (ATen/core/MT19937RNGEngine.h).
class TorchGenerator {
 public:
  explicit TorchGenerator(uint64_t seed);
  /// torch.randn(n) in float32 (ATen/native/cpu/DistributionTemplates.h: normal_fill from 16 values on, scalar
  /// Box–Muller below, which caches its second value in double).
  void normal(float* out, int64_t n);
  /// torch.rand(n) in float32: 24 random bits.
  void uniform(float* out, int64_t n);
  /// torch.randint(0, high, (n,)) for high < 2^32.
  void integers(int64_t* out, int64_t n, uint32_t high);
  /// torch.randperm(n).
  void permutation(int64_t* out, int64_t n);

 private:
  uint32_t next();
  uint64_t next64();
  std::array<uint32_t, 624> state_;
  int index_ = 624;
  bool has_cached_normal_ = false;
  double cached_normal_ = 0;
};

}  // namespace df
