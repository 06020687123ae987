#include "nn/config_fields.h"

#include "core/error.h"

namespace df {
namespace {

std::string text_of(const Json& v) {
  switch (v.type()) {
    case Json::Type::Number: return format("%.17g", v.number());
    case Json::Type::String: return json_quote(v.string());
    case Json::Type::Bool: return v.boolean() ? "true" : "false";
    default: return v.type_name();
  }
}

bool integer_in(const Json& v, int64_t min, int64_t max) {
  return v.is_integer() && v.integer() >= min && v.integer() <= max;
}

}  // namespace

ConfigFields::ConfigFields(const std::string& text, const std::string& what)
    : what_(what), json_(Json::parse(text, what)) {
  DF_CHECK(json_.is(Json::Type::Object), "%s: expected an object, got %s", what.c_str(), json_.type_name());
}

const Json& ConfigFields::get(const char* field) const {
  const Json* v = json_.find(field);
  DF_CHECK(v, "%s: %s is missing", what_.c_str(), field);
  return *v;
}

void ConfigFields::wrong(const char* field, const std::string& expected, const Json& got) const {
  fail(ErrorCode::InvalidArgument, "%s: %s must be %s, got %s", what_.c_str(), field, expected.c_str(),
       text_of(got).c_str());
}

int64_t ConfigFields::integer(const char* field, int64_t min, int64_t max) const {
  const Json& v = get(field);
  if (!integer_in(v, min, max))
    wrong(field, "a whole number from " + std::to_string(min) + " to " + std::to_string(max), v);
  return v.integer();
}

float ConfigFields::number(const char* field, double min, double max) const {
  const Json& v = get(field);
  if (!(v.is(Json::Type::Number) && v.number() >= min && v.number() <= max))
    wrong(field, format("a number from %g to %g", min, max), v);
  return float(v.number());
}

bool ConfigFields::boolean(const char* field) const {
  const Json& v = get(field);
  if (!v.is(Json::Type::Bool)) wrong(field, "true or false", v);
  return v.boolean();
}

int ConfigFields::choice(const char* field, const std::vector<const char*>& choices) const {
  const Json& v = get(field);
  std::string expected;
  for (size_t i = 0; i < choices.size(); i++) {
    if (choices[i] ? v.is(Json::Type::String) && v.string() == choices[i] : v.is(Json::Type::Null)) return int(i);
    expected += (i ? " or " : "") + std::string(choices[i] ? choices[i] : "null");
  }
  wrong(field, expected, v);
}

Activation ConfigFields::activation(const char* field, bool optional) const {
  std::vector<const char*> choices{"silu", "gelu"};
  if (optional) choices.push_back(nullptr);
  constexpr Activation kinds[] = {Activation::Silu, Activation::Gelu, Activation::None};
  return kinds[choice(field, choices)];
}

const std::vector<Json>& ConfigFields::list(const char* field, int length) const {
  const Json& v = get(field);
  const size_t n = v.items().size();
  if (!v.is(Json::Type::Array) || (length < 0 ? n < 1 || n > 16 : n != size_t(length)))
    wrong(field, length < 0 ? "a list of 1 to 16 entries" : "a list of " + std::to_string(length) + " entries", v);
  return v.items();
}

std::vector<int64_t> ConfigFields::integers(const char* field, int length, int64_t min, int64_t max) const {
  std::vector<int64_t> values;
  for (const Json& v : list(field, length)) {
    if (!integer_in(v, min, max))
      wrong(field, "whole numbers from " + std::to_string(min) + " to " + std::to_string(max), v);
    values.push_back(v.integer());
  }
  return values;
}

std::vector<bool> ConfigFields::booleans(const char* field, int length) const {
  std::vector<bool> values;
  for (const Json& v : list(field, length)) {
    if (!v.is(Json::Type::Bool)) wrong(field, "a list of true and false", v);
    values.push_back(v.boolean());
  }
  return values;
}

std::vector<bool> ConfigFields::cross_attention_blocks(const char* field, int length) const {
  std::vector<bool> values;
  for (const Json& v : list(field, length)) {
    if (v.string() != "resnet" && v.string() != "cross_attn") wrong(field, "a list of resnet and cross_attn", v);
    values.push_back(v.string() == "cross_attn");
  }
  return values;
}

}  // namespace df
