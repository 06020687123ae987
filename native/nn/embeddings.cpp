#include "nn/embeddings.h"

#include <cmath>

#include "ops/ops.h"

namespace df {

TimestepEmbedding::TimestepEmbedding(ParameterStore& p, const std::string& name, const Params& params)
    : dtype_(p.dtype()),
      params_(params),
      linear_1_(p, name + ".linear_1", params.sinusoid_dim, params.embedding_dim),
      linear_2_(p, name + ".linear_2", params.embedding_dim, params.embedding_dim) {}

Tensor TimestepEmbedding::forward(const Tensor& t) const {
  const Tensor sinusoid = ops::timestep_embedding(t, params_.sinusoid_dim, params_.flip_sin_to_cos, params_.freq_shift);
  Tensor h = linear_1_.forward(ops::copy(sinusoid, dtype_));  // (B, embedding_dim)
  h = linear_2_.forward(ops::activation(h, params_.activation));
  return params_.post_activation == Activation::None ? h : ops::activation(h, params_.post_activation);
}

TextTimeEmbedding::TextTimeEmbedding(ParameterStore& p, const std::string& name, int64_t text_dim,
                                     int64_t embedding_dim, int heads)
    : text_dim_(text_dim),
      heads_(heads),
      norm1_(p, name + ".norm1", text_dim),
      positional_embedding_(p.tensor({name + ".pool.positional_embedding"}, {1, text_dim})),
      q_proj_(p, name + ".pool.q_proj", text_dim, text_dim),
      kv_proj_(p, {name + ".pool.k_proj", name + ".pool.v_proj"}, text_dim, text_dim),
      proj_(p, name + ".proj", text_dim, embedding_dim),
      norm2_(p, name + ".norm2", embedding_dim) {}

Tensor TextTimeEmbedding::forward(const Tensor& text) const {
  const int64_t batch = text.dim(0), tokens = text.dim(1) + 1;
  const Tensor position = positional_embedding_->reshape({text_dim_});
  const Tensor x = ops::prepend_mean_token(norm1_.forward(text), position);                   // (B, T+1, C)
  const Tensor mean_token = x.reshape({batch, tokens * text_dim_}).slice_last(0, text_dim_);  // (B, C)
  const Tensor q = q_proj_.forward(mean_token).reshape({batch, 1, text_dim_});
  const Tensor kv = kv_proj_.forward(x);                                                      // (B, T+1, 2C)
  AttentionParams params;
  params.heads = heads_;
  params.scale = float(1 / std::sqrt(double(text_dim_ / heads_)));
  params.segments = {{kv.slice_last(0, text_dim_), kv.slice_last(text_dim_, text_dim_)}};
  const Tensor pooled = ops::attention(q, params).reshape({batch, text_dim_});
  return norm2_.forward(proj_.forward(pooled));                                               // (B, embedding_dim)
}

}  // namespace df
