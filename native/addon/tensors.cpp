// Tensors and the small op namespace: data across the boundary is float32 or int32, images are NCHW there.
#include <mutex>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/handles.h"
#include "core/storage.h"
#include "ops/ops.h"

namespace df::addon {
namespace {

CancelFlag read_flag(const Napi::Value& v) { return unwrap_optional<std::atomic<bool>>(v, "cancel"); }

// tensorFromFloat32(data: Float32Array, shape: number[], device: string): Tensor
Napi::Value tensor_from_float32(const Napi::CallbackInfo& info) {
  // shape and device first: reading them may run JavaScript that resizes the buffer of data
  const Shape shape = read_shape(info[1], "tensor: shape");
  const Device device = read_device(info[2], "tensor: device");
  DF_CHECK(info[0].IsTypedArray() && info[0].As<Napi::TypedArray>().TypedArrayType() == napi_float32_array,
           "tensor: data must be a Float32Array");
  auto data = info[0].As<Napi::Float32Array>();
  DF_CHECK(int64_t(data.ElementLength()) == shape.numel(), "tensor: %s needs %lld values, got %zu", shape.str().c_str(),
           static_cast<long long>(shape.numel()), data.ElementLength());
  Tensor host = Tensor::empty(shape, DType::F32, kCpu);
  std::memcpy(host.raw(), data.Data(), host.bytes());
  return wrap_tensor(info.Env(), ops::to_device(host, device));
}

// tensorToFloat32(t, cancel?): Promise<Float32Array>, row-major in the tensor's own order
Napi::Value tensor_to_float32(const Napi::CallbackInfo& info) {
  const Tensor t = unwrap_tensor(info[0], "tensor");
  return run_command(info.Env(), t.device(), read_flag(info[1]), [t]() -> Deliver {
    const Tensor host = ops::to_device(ops::copy(t, DType::F32), kCpu);
    return [host](Napi::Env env) -> Napi::Value {
      auto out = Napi::Float32Array::New(env, size_t(host.numel()));
      std::memcpy(out.Data(), host.raw(), host.bytes());
      return out;
    };
  });
}

// tensorInfo(t): { shape, dtype, device, bytes }
Napi::Value tensor_info(const Napi::CallbackInfo& info) {
  const Tensor t = unwrap_tensor(info[0], "tensor");
  auto o = Napi::Object::New(info.Env());
  auto shape = Napi::Array::New(info.Env());
  for (int i = 0; i < t.shape().rank(); i++) shape.Set(uint32_t(i), double(t.dim(i)));
  o.Set("shape", shape);
  o.Set("dtype", dtype_name(t.dtype()));
  o.Set("device", t.device().str());
  o.Set("bytes", double(t.bytes()));
  return o;
}

// imageToTensor(nchw, cancel?): Promise<Tensor>: (N, C, H, W) → (N, H, W, C)
Napi::Value image_to_tensor(const Napi::CallbackInfo& info) {
  const Tensor t = unwrap_tensor(info[0], "image");
  return run_command(info.Env(), t.device(), read_flag(info[1]), [t]() -> Deliver {
    const Tensor y = ops::nchw_to_nhwc(t, DType::F32);
    return [y](Napi::Env env) { return wrap_tensor(env, y); };
  });
}

// tensorToImage(nhwc, cancel?): Promise<Float32Array> in NCHW order
Napi::Value tensor_to_image(const Napi::CallbackInfo& info) {
  const Tensor t = unwrap_tensor(info[0], "image");
  return run_command(info.Env(), t.device(), read_flag(info[1]), [t]() -> Deliver {
    const Tensor host = ops::to_device(ops::nhwc_to_nchw(t), kCpu);
    return [host](Napi::Env env) -> Napi::Value {
      auto out = Napi::Float32Array::New(env, size_t(host.numel()));
      std::memcpy(out.Data(), host.raw(), host.bytes());
      return out;
    };
  });
}

// generatorCreate(seed: bigint): TorchGenerator
Napi::Value generator_create(const Napi::CallbackInfo& info) {
  DF_CHECK(info[0].IsBigInt(), "generator: seed must be a bigint");
  bool lossless = true;
  const uint64_t seed = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
  DF_CHECK(lossless, "generator: seed must be in [0, 2^64)");
  return wrap(info.Env(), std::make_shared<TorchGenerator>(seed));
}

// randn(generator, [N, C, H, W], device, cancel?): Promise<Tensor> (N, H, W, C): drawn in NCHW order, as torch does
Napi::Value randn(const Napi::CallbackInfo& info) {
  const auto generator = unwrap<TorchGenerator>(info[0], "randn: generator");
  const Shape shape = read_shape(info[1], "randn: shape");
  DF_CHECK(shape.rank() == 4, "randn: shape must be [N, C, H, W], got %s", shape.str().c_str());
  const Device device = read_device(info[2], "randn: device");
  return run_command(info.Env(), device, read_flag(info[3]), [=]() -> Deliver {
    const Tensor y = draw_noise(*generator, shape, device);
    return [y](Napi::Env env) { return wrap_tensor(env, y); };
  });
}

// bilinear(nhwc, height, width, cancel?): Promise<Tensor>
Napi::Value bilinear(const Napi::CallbackInfo& info) {
  const Tensor x = unwrap_tensor(info[0], "bilinear: x");
  const int64_t height = read_integer(info[1], "bilinear: height", 1, 1 << 16);
  const int64_t width = read_integer(info[2], "bilinear: width", 1, 1 << 16);
  return run_command(info.Env(), x.device(), read_flag(info[3]), [=]() -> Deliver {
    const Tensor y = ops::bilinear(x, height, width);
    return [y](Napi::Env env) { return wrap_tensor(env, y); };
  });
}

// axpby(a, x, b, z, cancel?): Promise<Tensor> a*x + b*z (q_sample: a = √ᾱ, b = √(1-ᾱ))
Napi::Value axpby(const Napi::CallbackInfo& info) {
  const float a = float(read_number(info[0], "axpby: a")), b = float(read_number(info[2], "axpby: b"));
  const Tensor x = unwrap_tensor(info[1], "axpby: x"), z = unwrap_tensor(info[3], "axpby: z");
  return run_command(info.Env(), x.device(), read_flag(info[4]), [=]() -> Deliver {
    const Tensor y = ops::axpby(a, x, b, z);
    return [y](Napi::Env env) { return wrap_tensor(env, y); };
  });
}

// allFinite(x, cancel?): Promise<boolean>
Napi::Value all_finite(const Napi::CallbackInfo& info) {
  const Tensor x = unwrap_tensor(info[0], "allFinite: x");
  return run_command(info.Env(), x.device(), read_flag(info[1]), [=]() -> Deliver {
    const bool finite = ops::all_finite(x);
    return [finite](Napi::Env env) -> Napi::Value { return Napi::Boolean::New(env, finite); };
  });
}

// cancelToken(): CancelToken; cancel(token)
Napi::Value cancel_token(const Napi::CallbackInfo& info) {
  return wrap(info.Env(), std::make_shared<std::atomic<bool>>(false));
}
Napi::Value cancel(const Napi::CallbackInfo& info) {
  unwrap<std::atomic<bool>>(info[0], "cancel: token")->store(true);
  return info.Env().Undefined();
}

// dispose(handle)
Napi::Value dispose_any(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Value v = info[0];
  const bool known = v.IsExternal() && (dispose<Tensor>(env, v) || dispose<UNet>(env, v) || dispose<T5Encoder>(env, v) ||
                                        dispose<Conditioning>(env, v) || dispose<TorchGenerator>(env, v) ||
                                        dispose<SharedTrainer>(env, v) || dispose<SafetensorsWriter>(env, v));
  DF_CHECK(known, "dispose: expected a handle of this library");
  return env.Undefined();
}

}  // namespace

Tensor draw_noise(TorchGenerator& generator, const Shape& nchw, Device device) {
  static std::mutex mutex;  // queues of two devices may draw from one generator
  Tensor host = Tensor::empty(nchw, DType::F32, kCpu);
  {
    std::lock_guard<std::mutex> lock(mutex);
    generator.normal(host.data<float>(), host.numel());
  }
  return ops::nchw_to_nhwc(ops::to_device(host, device), DType::F32);
}

void bind_tensors(Napi::Env env, Napi::Object exports) {
  bind<tensor_from_float32>(env, exports, "tensorFromFloat32");
  bind<tensor_to_float32>(env, exports, "tensorToFloat32");
  bind<tensor_info>(env, exports, "tensorInfo");
  bind<image_to_tensor>(env, exports, "imageToTensor");
  bind<tensor_to_image>(env, exports, "tensorToImage");
  bind<generator_create>(env, exports, "generatorCreate");
  bind<randn>(env, exports, "randn");
  bind<bilinear>(env, exports, "bilinear");
  bind<axpby>(env, exports, "axpby");
  bind<all_finite>(env, exports, "allFinite");
  bind<cancel_token>(env, exports, "cancelToken");
  bind<cancel>(env, exports, "cancel");
  bind<dispose_any>(env, exports, "dispose");
}

}  // namespace df::addon
