// A strict JSON reader (RFC 8259) for the two places where the core reads JSON: safetensors headers and model configs.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace df {

/// One JSON value; arrays and objects own their children, members keep the order of the text.
class Json {
 public:
  enum class Type { Null, Bool, Number, String, Array, Object };
  using Member = std::pair<std::string, Json>;

  /// Reads one value that fills the whole text. Objects with a repeated key, more than 64 nested levels, invalid UTF-8
  /// and lone surrogates are refused. Throws FILE_FORMAT: `where`, the byte position and what was expected.
  static Json parse(std::string_view text, const std::string& where);

  Type type() const { return type_; }
  /// "null", "true or false", "a number", "a string", "an array", "an object".
  const char* type_name() const;
  bool is(Type t) const { return type_ == t; }
  /// The text was an integer (no fraction, no exponent) that int64 holds; then `integer()` is exact.
  bool is_integer() const { return type_ == Type::Number && integral_; }

  // Valid only for a value of that type (`is`, `is_integer`); otherwise false, 0 or empty.
  bool boolean() const { return boolean_; }
  double number() const { return number_; }
  int64_t integer() const { return integer_; }
  const std::string& string() const { return string_; }
  const std::vector<Json>& items() const { return items_; }
  const std::vector<Member>& members() const { return members_; }
  /// The member `key` of an object, or null.
  const Json* find(std::string_view key) const;

 private:
  friend class JsonParser;
  Type type_ = Type::Null;
  bool boolean_ = false, integral_ = false;
  double number_ = 0;
  int64_t integer_ = 0;
  std::string string_;
  std::vector<Json> items_;
  std::vector<Member> members_;
};

/// `text` as a JSON string literal, quotes included (RFC 8259, section 7).
std::string json_quote(std::string_view text);

}  // namespace df
