// The random numbers that a training picture meets. Always drawn on the CPU in float32; stateless (core/philox.h), so
// they do not depend on how a batch is cut, on threads, on replicas or on where a run began.
#pragma once
#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace df {

/// The noise added to a picture, by Philox keyed with (seed, purpose, sample index): the same for any split of a batch.
struct NoiseOptions {
  float offset = 0;               ///< + offset · one normal number per channel (Guttenberg 2023; diffengine OffsetNoise)
  float pyramid_discount = 0;     ///< > 0: pyramid noise (diffengine PyramidNoise: discount 0.9)
  float input_perturbation = 0;   ///< xt is built with noise + γ · ξ, the target stays noise (Ning et al. 2023)
};

struct TrainingNoise {
  Tensor target;  ///< what ε-prediction predicts
  Tensor input;   ///< what xt is built with; the same tensor without input perturbation
};

/// Noise (B, H, W, C), float32 on the CPU, for the samples with these global indices. Pyramid noise adds to white noise
/// up to 16 levels of normal numbers, level i being the one before divided by r^i in height and width (r uniform in
/// [2, 4) for every level, sizes rounded down, at least 1), enlarged bilinearly (corners not aligned) and weighted with
/// discount^i, until a side is 1; the sum is divided by its standard deviation. diffengine draws r and takes the
/// deviation once for the whole batch; here both belong to the sample, so that its noise does not depend on its
/// neighbours. The offset is added last. Throws INVALID_ARGUMENT for a shape that does not fit `samples` and for options
/// out of range (offset and perturbation finite, discount from 0 to 1).
TrainingNoise training_noise(const Shape& shape, const std::vector<uint64_t>& samples, uint64_t seed,
                             const NoiseOptions& options);

/// White noise for the low-resolution picture of stages II and III; arguments as of training_noise.
Tensor low_res_noise(const Shape& shape, const std::vector<uint64_t>& samples, uint64_t seed);

}  // namespace df
