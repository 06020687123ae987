// Readers of JavaScript arguments: the parameter's name, what was expected and what came are in every error.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "addon/napi_setup.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/shape.h"
#include "ops/types.h"

namespace df::addon {

inline double read_number(const Napi::Value& v, const char* parameter) {
  DF_CHECK(v.IsNumber(), "%s: expected a number", parameter);
  return v.As<Napi::Number>().DoubleValue();
}
inline int64_t read_integer(const Napi::Value& v, const char* parameter, int64_t low, int64_t high) {
  const double d = read_number(v, parameter);
  DF_CHECK(d == std::floor(d) && d >= double(low) && d <= double(high), "%s: expected an integer in [%lld, %lld], got %g",
           parameter, static_cast<long long>(low), static_cast<long long>(high), d);
  return int64_t(d);
}
inline bool read_boolean(const Napi::Value& v, const char* parameter) {
  DF_CHECK(v.IsBoolean(), "%s: expected a boolean", parameter);
  return v.As<Napi::Boolean>().Value();
}
inline std::string read_string(const Napi::Value& v, const char* parameter) {
  DF_CHECK(v.IsString(), "%s: expected a string", parameter);
  std::string s = v.As<Napi::String>().Utf8Value();
  DF_CHECK(s.find('\0') == std::string::npos, "%s: a NUL character is not allowed", parameter);  // paths are C strings
  return s;
}
inline Device read_device(const Napi::Value& v, const char* parameter) {
  const Device device = Device::parse(read_string(v, parameter));
  DF_CHECK(device.type != DeviceType::Meta, "%s: the meta device is for memory plans only", parameter);
  return device;
}
/// The meta device that stands for a device in memory plans.
inline Device read_planned_device(const Napi::Value& v, const char* parameter) {
  return read_device(v, parameter).type == DeviceType::Cuda ? kMetaCuda : kMeta;
}
inline DType read_dtype(const Napi::Value& v, const char* parameter) {
  const std::string s = read_string(v, parameter);
  const std::optional<DType> t = dtype_named(s);
  DF_CHECK(t == DType::F32 || t == DType::BF16 || t == DType::F16, "%s: expected f32, bf16 or f16, got \"%s\"", parameter,
           s.c_str());
  return *t;
}
inline Precision read_precision(const Napi::Value& v, const char* parameter) {
  const std::string s = read_string(v, parameter);
  if (s == "exact") return Precision::Exact;
  if (s == "default") return Precision::Default;
  if (s == "fast") return Precision::Fast;
  fail(ErrorCode::InvalidArgument, "%s: expected exact, default or fast, got \"%s\"", parameter, s.c_str());
}
inline std::vector<std::string> read_strings(const Napi::Value& v, const char* parameter) {
  DF_CHECK(v.IsArray(), "%s: expected an array of strings", parameter);
  std::vector<std::string> out;
  auto a = v.As<Napi::Array>();
  for (uint32_t i = 0; i < a.Length(); i++) out.push_back(read_string(a.Get(i), parameter));
  return out;
}
inline std::vector<float> read_floats(const Napi::Value& v, const char* parameter) {
  DF_CHECK(v.IsArray(), "%s: expected an array of numbers", parameter);
  std::vector<float> out;
  auto a = v.As<Napi::Array>();
  for (uint32_t i = 0; i < a.Length(); i++) out.push_back(float(read_number(a.Get(i), parameter)));
  return out;
}
/// Dimensions of at least `low`; the product is bounded so that byte counts cannot overflow.
inline Shape read_shape(const Napi::Value& v, const char* parameter, int64_t low = 1) {
  DF_CHECK(v.IsArray() && v.As<Napi::Array>().Length() <= uint32_t(Shape::kMaxRank), "%s: expected up to %d dimensions",
           parameter, Shape::kMaxRank);
  Shape shape;
  auto a = v.As<Napi::Array>();
  double elements = 1;
  for (uint32_t i = 0; i < a.Length(); i++) {
    shape.push_back(read_integer(a.Get(i), parameter, low, int64_t(1) << 40));
    elements *= double(shape[-1]);
  }
  DF_CHECK(elements <= double(int64_t(1) << 40), "%s: %s is too large", parameter, shape.str().c_str());
  return shape;
}

}  // namespace df::addon
