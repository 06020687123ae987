// Stateless random numbers: what a number is follows from its key alone, so that resuming, accumulation, threads and
// replicas agree by construction.
#pragma once
#include <array>
#include <cstdint>

namespace df {

/// One stream of Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3): key
/// `seed`, counter (block, purpose, index), four words to a block, 2^34 numbers to a stream. Streams with different
/// (seed, purpose, index) are independent. The numbers are the same bits on every machine.
class Philox {
 public:
  Philox(uint64_t seed, uint32_t purpose, uint64_t index);
  std::array<uint32_t, 4> block(uint32_t number) const;
  /// Numbers [first, first + n) of the stream, uniform in [0, 1): 24 bits each.
  void uniform(float* out, int64_t n, int64_t first = 0) const;
  /// Numbers [first, first + n) of the stream, standard normal, |x| < 6.8: Box & Muller 1958 on pairs of words in
  /// float32, within 4 units of roundoff of the radius (2.4e-7 · |radius|) of the exact transform of the same words.
  void normal(float* out, int64_t n, int64_t first = 0) const;

 private:
  std::array<uint32_t, 2> key_;
  uint32_t purpose_;
  uint64_t index_;
};

}  // namespace df
