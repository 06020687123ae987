// What is added up to the embedding of a denoising step: the timestep, the noise level, the pooled text.
#pragma once
#include "nn/layers.h"

namespace df {

/// Sinusoid, linear, activation, linear (diffusers embeddings.py, Timesteps and TimestepEmbedding).
class TimestepEmbedding {
 public:
  struct Params {
    int64_t sinusoid_dim = 0, embedding_dim = 0;
    bool flip_sin_to_cos = true;
    float freq_shift = 0;
    Activation activation = Activation::Silu;
    Activation post_activation = Activation::None;
  };
  TimestepEmbedding(ParameterStore& p, const std::string& name, const Params& params);
  /// t (B) float32 → (B, embedding_dim) in the compute dtype; the sinusoid is float32.
  Tensor forward(const Tensor& t) const;

 private:
  DType dtype_;
  Params params_;
  Linear linear_1_, linear_2_;
};

/// The text pooled by one attention query, its mean (diffusers embeddings.py, TextTimeEmbedding and AttentionPooling).
class TextTimeEmbedding {
 public:
  TextTimeEmbedding(ParameterStore& p, const std::string& name, int64_t text_dim, int64_t embedding_dim, int heads);
  /// text (B, T, text_dim) as the text encoder gives it → (B, embedding_dim).
  Tensor forward(const Tensor& text) const;

 private:
  int64_t text_dim_;
  int heads_;
  LayerNorm norm1_;
  const Tensor* positional_embedding_;
  Linear q_proj_;
  Linear kv_proj_;
  Linear proj_;
  LayerNorm norm2_;
};

}  // namespace df
