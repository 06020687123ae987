// The text encoder: T5 v1.1 (Raffel et al. 2020; transformers models/t5/modeling_t5.py, T5EncoderModel).
#pragma once
#include <vector>

#include "nn/layers.h"
#include "nn/module.h"
#include "nn/t5_config.h"

namespace df {

/// Pre-norm self-attention without scaling, then a gated GELU; no biases anywhere.
class T5Block {
 public:
  T5Block(ParameterStore& p, const std::string& name, const T5Config& config);
  /// x (B, T, d_model), position_bias (heads, T, T) float32, mask (B, T) int32 → (B, T, d_model).
  Tensor forward(const Tensor& x, const Tensor& position_bias, const Tensor& mask) const;

 private:
  int heads_;
  int64_t inner_, d_ff_;
  float eps_;
  const Tensor* attention_norm_;
  Linear qkv_, o_;
  const Tensor* feed_forward_norm_;
  Linear wi_, wo_;
};

class T5Encoder : public Module {
 public:
  /// `dtype`: f32 or bf16. Never float16: the residual stream overflows it. With `int8_weights` the linear layers keep
  /// int8 weights; embedding, norms and position bias stay as they are, and all arithmetic is in `dtype`.
  T5Encoder(const T5Config& config, DType dtype, Device device, bool int8_weights = false)
      : T5Encoder(config, dtype, device, WeightOptions{.int8 = int8_weights}) {}
  T5Encoder(const T5Config& config, DType dtype, Device device, const WeightOptions& options);
  const T5Config& config() const { return config_; }
  /// ids (B, T) int32 in [0, vocab_size), mask (B, T) int32 with 0 for padding, at least one token per text, both on the
  /// CPU (where they are checked) or on the device of the model → (B, T, d_model) in the compute dtype. Padded positions get a result as well, as in transformers.
  Tensor forward(const Tensor& ids, const Tensor& mask) const;

 private:
  T5Config config_;
  const Tensor* embedding_;
  const Tensor* relative_attention_bias_ = nullptr;  // (buckets, heads); the first block's, used by all
  std::vector<T5Block> blocks_;
  const Tensor* final_norm_;
};

}  // namespace df
