#include "core/error.h"

#include <cstdarg>
#include <cstdio>

namespace df {

const char* error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::InvalidArgument: return "INVALID_ARGUMENT";
    case ErrorCode::NotFound: return "NOT_FOUND";
    case ErrorCode::FileFormat: return "FILE_FORMAT";
    case ErrorCode::Unsupported: return "UNSUPPORTED";
    case ErrorCode::Weights: return "WEIGHTS";
    case ErrorCode::OutOfMemory: return "OUT_OF_MEMORY";
    case ErrorCode::Cancelled: return "CANCELLED";
    case ErrorCode::Io: return "IO";
    case ErrorCode::NotBuilt: return "NOT_BUILT";
    case ErrorCode::Internal: return "INTERNAL";
  }
  return "INTERNAL";
}

static std::string vformat(const char* format, va_list args) {
  va_list copy;
  va_copy(copy, args);
  const int length = std::vsnprintf(nullptr, 0, format, copy);
  va_end(copy);
  std::string text(length > 0 ? size_t(length) : 0, '\0');
  if (length > 0) std::vsnprintf(text.data(), text.size() + 1, format, args);
  return text;
}

std::string format(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = vformat(format, args);
  va_end(args);
  return text;
}

void fail(ErrorCode code, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = vformat(format, args);
  va_end(args);
  throw Error(code, text);
}

}  // namespace df
