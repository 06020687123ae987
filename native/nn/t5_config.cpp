#include "nn/t5_config.h"

#include "nn/config_fields.h"

namespace df {

// The limits of lib/models/t5-config.ts: above every published T5.
constexpr int64_t kMaxWidth = 131072, kMaxCount = 1024, kMaxVocabulary = 1 << 22;

T5Config T5Config::from_json(const std::string& text) {
  const ConfigFields f(text, "t5 config");
  T5Config c;
  c.vocab_size = f.integer("vocabSize", 1, kMaxVocabulary);
  c.d_model = f.integer("dModel", 1, kMaxWidth);
  c.d_kv = f.integer("dKv", 1, kMaxWidth);
  c.d_ff = f.integer("dFf", 1, kMaxWidth);
  c.num_layers = int(f.integer("numLayers", 1, kMaxCount));
  c.num_heads = int(f.integer("numHeads", 1, kMaxCount));
  c.relative_attention_num_buckets = f.integer("relativeAttentionNumBuckets", 4, 65536);
  c.relative_attention_max_distance = int(f.integer("relativeAttentionMaxDistance", 1, 1 << 24));
  c.layer_norm_epsilon = f.number("layerNormEpsilon", 0, 1);
  return c;
}

}  // namespace df
