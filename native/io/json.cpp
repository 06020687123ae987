#include "io/json.h"

#include <charconv>
#include <unordered_set>

#include "core/error.h"

namespace df {
namespace {

constexpr int kMaxDepth = 64;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += char(code);
  } else if (code < 0x800) {
    out += char(0xc0 | code >> 6);
    out += char(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += char(0xe0 | code >> 12);
    out += char(0x80 | (code >> 6 & 0x3f));
    out += char(0x80 | (code & 0x3f));
  } else {
    out += char(0xf0 | code >> 18);
    out += char(0x80 | (code >> 12 & 0x3f));
    out += char(0x80 | (code >> 6 & 0x3f));
    out += char(0x80 | (code & 0x3f));
  }
}

// Length of the well-formed UTF-8 sequence at the start of `s` (Unicode 15, table 3-7), or 0.
size_t utf8_length(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? uint8_t(s[i]) : uint8_t(0); };
  const auto trail = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const uint8_t a = byte(0), b = byte(1);
  if (a < 0x80) return 1;
  if (a >= 0xc2 && a <= 0xdf) return trail(1) ? 2 : 0;
  if (a >= 0xe0 && a <= 0xef) {
    if (!trail(1) || !trail(2) || (a == 0xe0 && b < 0xa0) || (a == 0xed && b >= 0xa0)) return 0;
    return 3;
  }
  if (a >= 0xf0 && a <= 0xf4) {
    if (!trail(1) || !trail(2) || !trail(3) || (a == 0xf0 && b < 0x90) || (a == 0xf4 && b >= 0x90)) return 0;
    return 4;
  }
  return 0;
}

}  // namespace

class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json document() {
    Json v = value(0);
    skip_space();
    if (at_ != text_.size()) wrong("expected the end of the text");
    return v;
  }

 private:
  [[noreturn]] void wrong(const char* what) const {
    fail(ErrorCode::FileFormat, "%s: not valid JSON at byte %zu: %s", where_.c_str(), at_, what);
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_space() {
    while (at_ < text_.size() && (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r')) at_++;
  }
  bool accept(char c) {
    if (at_ < text_.size() && text_[at_] == c) return at_++, true;
    return false;
  }
  bool accept_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kMaxDepth) wrong("more than 64 nested levels");
    skip_space();
    Json v;
    switch (peek()) {
      case '{': object(v, depth); break;
      case '[': array(v, depth); break;
      case '"':
        v.type_ = Json::Type::String;
        v.string_ = string();
        break;
      default:
        if (accept_word("true")) {
          v.type_ = Json::Type::Bool;
          v.boolean_ = true;
        } else if (accept_word("false")) {
          v.type_ = Json::Type::Bool;
        } else if (!accept_word("null")) {
          number(v);
        }
    }
    return v;
  }

  void object(Json& v, int depth) {
    v.type_ = Json::Type::Object;
    at_++;
    skip_space();
    if (accept('}')) return;
    std::unordered_set<std::string> seen;
    do {
      skip_space();
      if (peek() != '"') wrong("expected a member name in quotes");
      const size_t start = at_;
      std::string key = string();
      if (!seen.insert(key).second) {
        at_ = start;
        wrong("this member name was used before in the same object");
      }
      skip_space();
      if (!accept(':')) wrong("expected ':'");
      v.members_.emplace_back(std::move(key), value(depth + 1));
      skip_space();
    } while (accept(','));
    if (!accept('}')) wrong("expected ',' or '}'");
  }

  void array(Json& v, int depth) {
    v.type_ = Json::Type::Array;
    at_++;
    skip_space();
    if (accept(']')) return;
    do {
      v.items_.push_back(value(depth + 1));
      skip_space();
    } while (accept(','));
    if (!accept(']')) wrong("expected ',' or ']'");
  }

  void digits(const char* expected) {
    if (!is_digit(peek())) wrong(expected);
    while (is_digit(peek())) at_++;
  }

  void number(Json& v) {
    const size_t start = at_;
    const bool negative = accept('-');
    if (!accept('0')) digits(negative ? "expected a digit" : "expected a value");
    bool integral = true;
    if (accept('.')) {
      integral = false;
      digits("expected a digit");
    }
    if (accept('e') || accept('E')) {
      integral = false;
      if (!accept('+')) accept('-');
      digits("expected a digit");
    }
    v.type_ = Json::Type::Number;
    const char *first = text_.data() + start, *last = text_.data() + at_;
    if (std::from_chars(first, last, v.number_).ec != std::errc()) {
      at_ = start;
      wrong("this number is out of range");
    }
    v.integral_ = integral && std::from_chars(first, last, v.integer_).ec == std::errc();
  }

  uint32_t hex4() {
    uint32_t code = 0;
    for (int i = 0; i < 4; i++, at_++) {
      const char c = peek();
      if (is_digit(c)) code = code * 16 + uint32_t(c - '0');
      else if (c >= 'a' && c <= 'f') code = code * 16 + uint32_t(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') code = code * 16 + uint32_t(c - 'A' + 10);
      else wrong("expected four hexadecimal digits after \\u");
    }
    return code;
  }

  void escape(std::string& out) {
    const char c = peek();
    at_++;
    switch (c) {
      case '"': case '\\': case '/': out += c; return;
      case 'b': out += '\b'; return;
      case 'f': out += '\f'; return;
      case 'n': out += '\n'; return;
      case 'r': out += '\r'; return;
      case 't': out += '\t'; return;
      case 'u': break;
      default: at_--; wrong("unknown escape in a string");
    }
    uint32_t code = hex4();
    if (code >= 0xd800 && code <= 0xdfff) {
      const bool pair = code < 0xdc00 && accept_word("\\u");
      const uint32_t low = pair ? hex4() : 0;
      if (low < 0xdc00 || low > 0xdfff) wrong("half of a surrogate pair in a string");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(out, code);
  }

  std::string string() {
    std::string out;
    at_++;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') return at_++, out;
      if (uint8_t(c) < 0x20) wrong("control character in a string");
      if (c == '\\') {
        at_++;
        escape(out);
        continue;
      }
      const size_t n = utf8_length(text_.substr(at_));
      if (n == 0) wrong("invalid UTF-8 in a string");
      out.append(text_, at_, n);
      at_ += n;
    }
    wrong("the text ends inside a string");
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};

Json Json::parse(std::string_view text, const std::string& where) { return JsonParser(text, where).document(); }

const char* Json::type_name() const {
  switch (type_) {
    case Type::Null: return "null";
    case Type::Bool: return "true or false";
    case Type::Number: return "a number";
    case Type::String: return "a string";
    case Type::Array: return "an array";
    case Type::Object: return "an object";
  }
  return "a value";
}

const Json* Json::find(std::string_view key) const {
  for (const Member& m : members_)
    if (m.first == key) return &m.second;
  return nullptr;
}

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (c == '\n') out += "\\n";
    else if (c == '\r') out += "\\r";
    else if (c == '\t') out += "\\t";
    else if (c == '\b') out += "\\b";
    else if (c == '\f') out += "\\f";
    else if (uint8_t(c) < 0x20) out += format("\\u%04x", unsigned(uint8_t(c)));
    else out += c;
  }
  return out + "\"";
}

}  // namespace df
