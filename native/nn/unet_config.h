#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "ops/types.h"

namespace df {

/// A UNet2DConditionModel of the DeepFloyd IF family. The fields are those of lib/models/unet-config.ts, which
/// describes them; lists have one entry per level, finest first, `up_attention` one per up block, coarsest first.
struct UNetConfig {
  int64_t in_channels = 0, out_channels = 0;
  std::vector<int64_t> block_out_channels;
  std::vector<int64_t> layers_per_block;
  std::vector<bool> down_attention;        ///< downBlocks: "cross_attn"
  std::vector<bool> up_attention;          ///< upBlocks: "cross_attn"
  int64_t cross_attention_dim = 0;
  std::vector<int64_t> attention_head_dim;
  std::vector<bool> only_cross_attention;
  bool mid_block_only_cross_attention = false;
  int norm_num_groups = 32;
  float norm_eps = 1e-5f;
  Activation act_fn = Activation::Gelu;
  int64_t time_embedding_dim = 0;
  Activation time_embedding_act_fn = Activation::None;
  Activation timestep_post_act = Activation::None;
  bool flip_sin_to_cos = true;
  float freq_shift = 0;
  bool class_embed = false;                ///< classEmbedType "timestep"
  int addition_embed_type_num_heads = 1;
  int64_t encoder_hid_dim = 0;
  bool resnet_skip_time_act = false;
  float resnet_out_scale_factor = 1, mid_block_scale_factor = 1;
  bool cross_attention_norm = false;       ///< crossAttentionNorm "group_norm"

  int levels() const { return int(block_out_channels.size()); }
  /// Height and width of the pictures must be multiples of this: every level but the last halves them.
  int64_t size_multiple() const { return int64_t(1) << (levels() - 1); }

  /// Reads the JSON of a normalised config. Throws INVALID_ARGUMENT naming the field.
  static UNetConfig from_json(const std::string& text);
};

}  // namespace df
