#include "nn/unet_config.h"

#include "core/error.h"
#include "nn/config_fields.h"

namespace df {
namespace {

// The limits of lib/models: far above every published network, so that a wrong number is refused before any allocation.
constexpr int64_t kMaxChannels = 65536, kMaxLayers = 64;

void check_divides(const char* field, int64_t width, int64_t by, const char* what) {
  DF_CHECK(width % by == 0, "unet config: %s must be a multiple of %s %lld, got %lld", field, what,
           static_cast<long long>(by), static_cast<long long>(width));
}

// What has to divide what (lib/models/unet-config.ts, checkWidths).
void check_widths(const UNetConfig& c) {
  const int levels = c.levels();
  for (int i = 0; i < levels; i++) {
    check_divides("blockOutChannels", c.block_out_channels[i], c.norm_num_groups, "normNumGroups");
    if (c.down_attention[i] || c.up_attention[levels - 1 - i] || i == levels - 1)
      check_divides("blockOutChannels", c.block_out_channels[i], c.attention_head_dim[i], "attentionHeadDim");
  }
  if (c.cross_attention_norm)
    check_divides("crossAttentionDim", c.cross_attention_dim, 32, "the groups of norm_cross,");
  check_divides("encoderHidDim", c.encoder_hid_dim, c.addition_embed_type_num_heads, "additionEmbedTypeNumHeads");
}

}  // namespace

UNetConfig UNetConfig::from_json(const std::string& text) {
  const ConfigFields f(text, "unet config");
  UNetConfig c;
  c.in_channels = f.integer("inChannels", 1, kMaxChannels);
  c.out_channels = f.integer("outChannels", 1, kMaxChannels);
  c.block_out_channels = f.integers("blockOutChannels", -1, 1, kMaxChannels);
  const int levels = c.levels();
  c.layers_per_block = f.integers("layersPerBlock", levels, 1, kMaxLayers);
  c.down_attention = f.cross_attention_blocks("downBlocks", levels);
  c.up_attention = f.cross_attention_blocks("upBlocks", levels);
  c.cross_attention_dim = f.integer("crossAttentionDim", 1, kMaxChannels);
  c.attention_head_dim = f.integers("attentionHeadDim", levels, 1, kMaxChannels);
  c.only_cross_attention = f.booleans("onlyCrossAttention", levels);
  c.mid_block_only_cross_attention = f.boolean("midBlockOnlyCrossAttention");
  c.norm_num_groups = int(f.integer("normNumGroups", 1, kMaxChannels));
  c.norm_eps = f.number("normEps", 0, 1);
  c.act_fn = f.activation("actFn", false);
  c.time_embedding_dim = f.integer("timeEmbeddingDim", 1, kMaxChannels);
  c.time_embedding_act_fn = f.activation("timeEmbeddingActFn", true);
  c.timestep_post_act = f.activation("timestepPostAct", true);
  c.flip_sin_to_cos = f.boolean("flipSinToCos");
  c.freq_shift = f.number("freqShift", 0, 1);
  c.class_embed = f.choice("classEmbedType", {nullptr, "timestep"}) == 1;
  c.addition_embed_type_num_heads = int(f.integer("additionEmbedTypeNumHeads", 1, kMaxChannels));
  c.encoder_hid_dim = f.integer("encoderHidDim", 1, kMaxChannels);
  c.resnet_skip_time_act = f.boolean("resnetSkipTimeAct");
  c.resnet_out_scale_factor = f.number("resnetOutScaleFactor", 1e-6, 1e6);
  c.mid_block_scale_factor = f.number("midBlockScaleFactor", 1e-6, 1e6);
  c.cross_attention_norm = f.choice("crossAttentionNorm", {nullptr, "group_norm"}) == 1;
  check_widths(c);
  return c;
}

}  // namespace df
