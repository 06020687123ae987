// What the forward and the backward pass of group norm share.
#pragma once
#include "cuda/gpu/host.cuh"
#include "ops/types.h"

namespace df::IF_CUDA_NAMESPACE {

/// The pixels of every item in slabs that are summed by one block, cut by shape alone.
struct PixelSlabs {
  int items, channels, pixels;
  int slab;   ///< pixels of a slab (the last one may have fewer)
  int slabs;  ///< of one item, 64 at most
  explicit PixelSlabs(const Tensor& x);
};

/// (x - mean) * slope + offset is x normalised, scaled and shifted.
struct GroupStatistics {
  Tensor coefficients;  ///< (items, 3, channels) float32: mean, slope, offset
  Tensor inverse;       ///< (items, groups) float32: 1 / sqrt(variance + eps)
};
GroupStatistics group_statistics(const Tensor& x, const GroupNormParams& p, const PixelSlabs& cut);

}  // namespace df::IF_CUDA_NAMESPACE
