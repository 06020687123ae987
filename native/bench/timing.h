// What is timed: single products, whole steps. The addon's benchmarks and if_bench share it.
#pragma once
#include <vector>

#include "nn/t5_encoder.h"
#include "nn/unet.h"
#include "ops/types.h"

namespace df {

/// Seconds of each run, after one that is not counted; a run ends when its device is done.
struct Timing {
  std::vector<double> seconds;
  double flops = 0;         ///< of one run
  size_t peak_bytes = 0;    ///< of the tensors on the device
};

double median(std::vector<double> seconds);

/// x (m, k) · wᵀ (n, k).
Timing time_linear(int64_t m, int64_t n, int64_t k, DType dtype, bool int8_weights, int64_t runs, Device device);
/// A 3×3 convolution with padding 1 of `batch` pictures of size × size.
Timing time_conv(int64_t batch, int64_t size, int64_t in, int64_t out, DType dtype, Precision precision, int64_t runs,
                 Device device);
/// One forward pass with random weights and 77 tokens, as a sampling step runs it.
Timing time_unet(const UNetConfig& config, DType dtype, int64_t batch, int64_t size, Precision precision, int64_t runs,
                 Device device);
/// One encoding of 77 tokens with random weights.
Timing time_t5(const T5Config& config, DType dtype, int64_t batch, int64_t runs, Device device);
/// Forward, backward, clipping and AdamW with random weights and pictures.
Timing time_training(const UNetConfig& config, DType dtype, int64_t batch, int64_t size, bool checkpointing, int64_t runs,
                     Device device);

/// As T5 begins its training: scores are not divided by sqrt(d_kv), the weights of q are, and the embedding has variance 1
/// (Raffel et al. 2020, Mesh TensorFlow's code; transformers modeling_t5.py, T5PreTrainedModel._init_weights).
void prepare_random(RandomSource& source, const T5Encoder& t5);

}  // namespace df
