// What the forward and the backward pass of group norm share.
#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace df {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// The pixels of every item in slabs with sums of their own, cut by shape alone.
struct PixelSlabs {
  int64_t items, channels, pixels;
  int64_t slab;   ///< pixels of a slab (the last one may have fewer)
  int64_t slabs;  ///< of one item, 64 at most
  /// Slabs of about `values` values, in multiples of `unit` pixels. x: (items, …, channels).
  PixelSlabs(const Tensor& x, int64_t values, int64_t unit);
};

struct GroupMoments {
  double mean, inverse;  ///< inverse = 1 / sqrt(variance + eps)
};

/// Of all items; in scratch memory of the calling thread.
struct GroupStatistics {
  double* sums;           ///< [items][slabs][2][channels]: Σx and Σx² of the slabs
  GroupMoments* moments;  ///< [items][groups]
  /// [items][rows][channels], `rows` as asked for; the first three are mean, a and b of the norm
  /// (x - mean) * a + b: `mean` is the float nearest to the group's mean (x - mean is then nearly exact), what it lacks
  /// is in b.
  float* coefficients;
};

}  // namespace df
