// Pixels of training pictures.
#include "addon/arguments.h"
#include "addon/bindings.h"
#include "io/resize.h"

namespace df::addon {
namespace {

constexpr int64_t kLargestPicture = int64_t(1) << 31;  // bytes

ResizeFilter read_filter(const Napi::Value& v) {
  const std::string s = read_string(v, "resize: filter");
  if (s == "box") return ResizeFilter::Box;
  if (s == "bilinear") return ResizeFilter::Bilinear;
  if (s == "bicubic") return ResizeFilter::Bicubic;
  if (s == "lanczos") return ResizeFilter::Lanczos;
  fail(ErrorCode::InvalidArgument, "resize: filter must be box, bilinear, bicubic or lanczos, got \"%s\"", s.c_str());
}

// resizePixels(pixels: Uint8Array, width, height, channels, newWidth, newHeight, filter): Promise<Uint8Array>
Napi::Value resize(const Napi::CallbackInfo& info) {
  const int64_t width = read_integer(info[1], "resize: width", 1, kLongestSide);
  const int64_t height = read_integer(info[2], "resize: height", 1, kLongestSide);
  const int64_t channels = read_integer(info[3], "resize: channels", 1, 4);
  const int64_t new_width = read_integer(info[4], "resize: newWidth", 1, kLongestSide);
  const int64_t new_height = read_integer(info[5], "resize: newHeight", 1, kLongestSide);
  const ResizeFilter filter = read_filter(info[6]);
  DF_CHECK(info[0].IsTypedArray() && info[0].As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array,
           "resize: pixels must be a Uint8Array");
  auto from = info[0].As<Napi::Uint8Array>();
  DF_CHECK(int64_t(from.ByteLength()) == width * height * channels, "resize: %lld × %lld × %lld needs %lld bytes, got %zu",
           static_cast<long long>(height), static_cast<long long>(width), static_cast<long long>(channels),
           static_cast<long long>(width * height * channels), from.ByteLength());
  DF_CHECK(new_width * new_height * channels <= kLargestPicture, "resize: the new picture must be at most %lld bytes, got %lld",
           static_cast<long long>(kLargestPicture), static_cast<long long>(new_width * new_height * channels));
  auto to = Napi::Uint8Array::New(info.Env(), size_t(new_width * new_height * channels));
  auto both = Napi::Array::New(info.Env(), 2);
  both.Set(uint32_t(0), from);
  both.Set(uint32_t(1), to);
  return run_beside(info.Env(), [=, pinned = pin(info.Env(), both), read = from.Data(), write = to.Data()]() -> Deliver {
    resize_pixels(read, width, height, channels, write, new_width, new_height, filter);
    return [pinned](Napi::Env) -> Napi::Value { return pinned->Value().Get(uint32_t(1)); };
  });
}

}  // namespace

void bind_images(Napi::Env env, Napi::Object exports) { bind<resize>(env, exports, "resizePixels"); }

}  // namespace df::addon
