#include "bench/published_config.h"

#include "core/error.h"

namespace df {
namespace {

std::string text_of(const Json& v) {
  switch (v.type()) {
    case Json::Type::Null: return "null";
    case Json::Type::Bool: return v.boolean() ? "true" : "false";
    case Json::Type::Number: return format("%.17g", v.number());
    case Json::Type::String: return json_quote(v.string());
    default: break;
  }
  std::string s;
  for (const Json& item : v.items()) s += (s.empty() ? "" : ",") + text_of(item);
  return "[" + s + "]";
}

std::string repeated(const std::string& value, size_t n) {
  std::string s;
  for (size_t i = 0; i < n; i++) s += (i ? "," : "") + value;
  return "[" + s + "]";
}

// Member `key` as JSON text, or `fallback`.
std::string field(const Json& config, const char* key, const std::string& fallback) {
  const Json* v = config.find(key);
  return v ? text_of(*v) : fallback;
}

// One entry per level, whether the file has a list or one value for all.
std::string per_level(const Json& config, const char* key, const std::string& fallback, size_t levels) {
  const Json* v = config.find(key);
  return v && v->is(Json::Type::Array) ? text_of(*v) : repeated(v ? text_of(*v) : fallback, levels);
}

std::string block_types(const Json& config, const char* key) {
  std::string s;
  for (const Json& type : config.find(key)->items())
    s += (s.empty() ? "" : ",") +
         std::string(type.string().find("CrossAttn") != std::string::npos ? "\"cross_attn\"" : "\"resnet\"");
  return "[" + s + "]";
}

}  // namespace

std::string normalised_unet_config(const Json& c) {
  const size_t levels = c.find("block_out_channels")->items().size();
  const Json* only_text = c.find("only_cross_attention");
  const bool listed = only_text && only_text->is(Json::Type::Array);  // a list says nothing about the mid block
  const std::string time_dim = field(c, "time_embedding_dim", "null");
  const int64_t default_time_dim = 4 * c.find("block_out_channels")->items()[0].integer();
  return "{\"inChannels\":" + field(c, "in_channels", "4") + ",\"outChannels\":" + field(c, "out_channels", "4") +
         ",\"blockOutChannels\":" + field(c, "block_out_channels", "") +
         ",\"layersPerBlock\":" + per_level(c, "layers_per_block", "2", levels) +
         ",\"downBlocks\":" + block_types(c, "down_block_types") + ",\"upBlocks\":" + block_types(c, "up_block_types") +
         ",\"crossAttentionDim\":" + field(c, "cross_attention_dim", "1280") +
         ",\"attentionHeadDim\":" + per_level(c, "attention_head_dim", "8", levels) +
         ",\"onlyCrossAttention\":" + per_level(c, "only_cross_attention", "false", levels) +
         ",\"midBlockOnlyCrossAttention\":" + (listed ? "false" : field(c, "only_cross_attention", "false")) +
         ",\"normNumGroups\":" + field(c, "norm_num_groups", "32") + ",\"normEps\":" + field(c, "norm_eps", "1e-5") +
         ",\"actFn\":" + field(c, "act_fn", "\"silu\"") +
         ",\"timeEmbeddingDim\":" + (time_dim == "null" ? std::to_string(default_time_dim) : time_dim) +
         ",\"timeEmbeddingActFn\":" + field(c, "time_embedding_act_fn", "null") +
         ",\"timestepPostAct\":" + field(c, "timestep_post_act", "null") +
         ",\"flipSinToCos\":" + field(c, "flip_sin_to_cos", "true") + ",\"freqShift\":" + field(c, "freq_shift", "0") +
         ",\"classEmbedType\":" + field(c, "class_embed_type", "null") +
         ",\"additionEmbedTypeNumHeads\":" + field(c, "addition_embed_type_num_heads", "64") +
         ",\"encoderHidDim\":" + field(c, "encoder_hid_dim", "null") +
         ",\"resnetSkipTimeAct\":" + field(c, "resnet_skip_time_act", "false") +
         ",\"resnetOutScaleFactor\":" + field(c, "resnet_out_scale_factor", "1") +
         ",\"midBlockScaleFactor\":" + field(c, "mid_block_scale_factor", "1") +
         ",\"crossAttentionNorm\":" + field(c, "cross_attention_norm", "null") + "}";
}

std::string normalised_t5_config(const Json& c) {
  return "{\"vocabSize\":" + field(c, "vocab_size", "null") + ",\"dModel\":" + field(c, "d_model", "null") +
         ",\"dKv\":" + field(c, "d_kv", "null") + ",\"dFf\":" + field(c, "d_ff", "null") +
         ",\"numLayers\":" + field(c, "num_layers", "null") + ",\"numHeads\":" + field(c, "num_heads", "null") +
         ",\"relativeAttentionNumBuckets\":" + field(c, "relative_attention_num_buckets", "32") +
         ",\"relativeAttentionMaxDistance\":" + field(c, "relative_attention_max_distance", "128") +
         ",\"layerNormEpsilon\":" + field(c, "layer_norm_epsilon", "1e-6") + "}";
}

}  // namespace df
