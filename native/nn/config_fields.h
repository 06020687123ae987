// Reads the fields of a model config that lib/models has normalised: every field is present, ranges are checked again.
#pragma once
#include <string>
#include <vector>

#include "io/json.h"
#include "ops/types.h"

namespace df {

class ConfigFields {
 public:
  /// `text`: a JSON object; `what` begins every message: "unet config". Throws FILE_FORMAT when it is no JSON.
  ConfigFields(const std::string& text, const std::string& what);

  // All throw INVALID_ARGUMENT naming the field when it is missing, of another type or out of range.
  int64_t integer(const char* field, int64_t min, int64_t max) const;
  float number(const char* field, double min, double max) const;
  bool boolean(const char* field) const;
  /// A string that is one of `choices`, or null where one of them is nullptr; returns its position.
  int choice(const char* field, const std::vector<const char*>& choices) const;
  /// "silu", "gelu", or null (None) where `optional`.
  Activation activation(const char* field, bool optional) const;
  /// Lists of `length` entries; -1: any length from 1 to 16.
  std::vector<int64_t> integers(const char* field, int length, int64_t min, int64_t max) const;
  std::vector<bool> booleans(const char* field, int length) const;
  /// For a list of "resnet" and "cross_attn": whether the entry is the latter.
  std::vector<bool> cross_attention_blocks(const char* field, int length) const;

 private:
  const Json& get(const char* field) const;
  const std::vector<Json>& list(const char* field, int length) const;
  [[noreturn]] void wrong(const char* field, const std::string& expected, const Json& got) const;
  std::string what_;
  Json json_;
};

}  // namespace df
