#pragma once
#include <optional>

#include "nn/layers.h"

namespace df {

struct AttentionBlockParams {
  int64_t channels = 0;
  int64_t text_channels = 0;   ///< width of the projected text
  int64_t head_dim = 64;
  int groups = 32;             ///< of the norm of the image
  bool only_text = false;      ///< only_cross_attention: the image has no keys and values of its own
  bool norm_text = true;       ///< cross_attention_norm "group_norm"
};

/// Attention of the image over [text tokens, image tokens] in one softmax, with residual (diffusers
/// attention_processor.py, Attention with AttnAddedKVProcessor).
class AttentionBlock {
 public:
  /// `index`: position among the attention blocks of the model, in Conditioning::text.
  AttentionBlock(ParameterStore& p, const std::string& name, const AttentionBlockParams& params, int index);
  /// Projected text (B, T, text_channels) → its keys and values, (B, T, channels) each.
  KeyValue prepare(const Tensor& text) const;
  /// x (B, H, W, channels) → the same shape.
  Tensor forward(const Tensor& x, const KeyValue& text, const Tensor& into = {}) const;
  const std::string& name() const { return name_; }
  int index() const { return index_; }

 private:
  Tensor attend(const Tensor& tokens, const KeyValue& text) const;
  std::string name_;
  int index_;
  int64_t channels_;
  int heads_;
  float scale_;
  bool only_text_;
  GroupNorm group_norm_;
  std::optional<GroupNorm> norm_cross_;
  Linear to_qkv_;       // q alone with only_text
  Linear add_kv_proj_;
  Linear to_out_;
};

}  // namespace df
