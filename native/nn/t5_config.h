#pragma once
#include <cstdint>
#include <string>

namespace df {

/// The encoder of T5 v1.1; the fields of lib/models/t5-config.ts.
struct T5Config {
  int64_t vocab_size = 0, d_model = 0, d_kv = 0, d_ff = 0;
  int num_layers = 0, num_heads = 0;
  int64_t relative_attention_num_buckets = 32;
  int relative_attention_max_distance = 128;
  float layer_norm_epsilon = 1e-6f;

  /// Reads the JSON of a normalised config. Throws INVALID_ARGUMENT naming the field.
  static T5Config from_json(const std::string& text);
};

}  // namespace df
