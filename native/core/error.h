// Errors of the native core. They arrive in JavaScript as IFError with the same code (addon/error_translation).
#pragma once
#include <stdexcept>
#include <string>

namespace df {

enum class ErrorCode {
  InvalidArgument, NotFound, FileFormat, Unsupported, Weights, OutOfMemory, Cancelled, Io, NotBuilt, Internal
};

/// The code as JavaScript sees it, e.g. "INVALID_ARGUMENT".
const char* error_code_name(ErrorCode code);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code(code) {}
  const ErrorCode code;
};

/// Throws df::Error with a printf-formatted message: `group_norm: channels must be a multiple of 32 groups, got 48`.
[[noreturn]] void fail(ErrorCode code, const char* format, ...) __attribute__((format(printf, 2, 3)));

/// printf into a std::string.
std::string format(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace df

/// Throws INVALID_ARGUMENT with the printf-formatted rest when `condition` does not hold.
#define DF_CHECK(condition, ...) \
  do {                           \
    if (!(condition)) ::df::fail(::df::ErrorCode::InvalidArgument, __VA_ARGS__); \
  } while (0)
