// What the forward and the backward pass of group norm share, and its kernels with 16-byte accesses (norm_vector.cu).
#pragma once
#include "cuda/gradient.h"
#include "cuda/vectors.h"

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
/// vectors: x has_vectors() and the kernels with them are wanted.
GroupStatistics group_statistics(const Tensor& x, const GroupNormParams& p, const PixelSlabs& cut, bool vectors);

struct NormConstants {
  const float *coefficients, *inverse;  // GroupStatistics
  int pixels, channels, groups;
  Activation kind;
  NormConstants(const GroupStatistics& s, const PixelSlabs& cut, const GroupNormParams& p)
      : coefficients(s.coefficients.data<float>()), inverse(s.inverse.data<float>()), pixels(cut.pixels),
        channels(cut.channels), groups(p.groups), kind(p.activation) {}
};

/// Of values: their number, mean and sum of squared distances from it.
struct Moments {
  float count, mean, m2;
};

/// Chan, Golub & LeVeque 1983, eq. 2.1. Either may be empty.
GPU_FN Moments merge(Moments a, Moments b) {
  const float count = a.count + b.count;
  if (count == 0) return a;
  const float distance = b.mean - a.mean, share = b.count / count;
  return {count, a.mean + distance * share, a.m2 + b.m2 + distance * distance * a.count * share};
}

/// The four that read or write pixels, for tensors that all has_vectors(). moments, sums: (items, slabs, channels).
void vector_slab_moments(float2* moments, const Tensor& x, const PixelSlabs& cut);
void vector_normalize(const Tensor& y, const Tensor& x, const NormConstants& p, int items);
void vector_slab_gradients(float2* sums, const Tensor& dy, const Tensor& x, const NormConstants& p, const PixelSlabs& cut);
void vector_normalize_backward(const Gradient& dx, const Tensor& dy, const Tensor& x, const float2* group_means,
                               const NormConstants& p, int items);

}  // namespace df::IF_CUDA_NAMESPACE
