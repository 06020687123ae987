// UNet and T5 encoder: made from a normalised config (lib/models), loaded from safetensors, run on their device's queue.
#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/handles.h"
#include "bench/timing.h"
#include "io/safetensors.h"
#include "io/state_source.h"
#include "nn/denoise.h"
#include "ops/ops.h"

namespace df::addon {
namespace {

CancelFlag read_flag(const Napi::Value& v) { return unwrap_optional<std::atomic<bool>>(v, "cancel"); }

// (config: string, dtype, device, option): Promise<Model>; `option` is the constructor's last argument
template <class Model, class Config, class Option> Napi::Value create(const Napi::CallbackInfo& info, Option option) {
  const Config config = Config::from_json(read_string(info[0], "config"));
  const DType dtype = read_dtype(info[1], "dtype");
  const Device device = read_device(info[2], "device");
  return run_command(info.Env(), device, nullptr, [=]() -> Deliver {
    auto model = std::make_shared<Model>(config, dtype, device, option);
    return [model](Napi::Env env) { return wrap(env, model, int64_t(model->weight_bytes())); };
  });
}

// unetCreate(config, dtype, device, precision): Promise<UNet>
Napi::Value unet_create(const Napi::CallbackInfo& info) {
  return create<UNet, UNetConfig>(info, read_precision(info[3], "precision"));
}

// t5Create(config, dtype, device, int8Weights: boolean): Promise<T5Encoder>
Napi::Value t5_create(const Napi::CallbackInfo& info) {
  return create<T5Encoder, T5Config>(info, read_boolean(info[3], "int8Weights"));
}

// (model, files: string[], lora: products | null, onProgress?: (done, total) => void, cancel?): Promise<void>
template <class Model> Napi::Value load(const Napi::CallbackInfo& info) {
  const auto model = unwrap<Model>(info[0], "model");
  const std::vector<std::string> files = read_strings(info[1], "files");
  const std::vector<LoraProduct> products = read_products(info[2]);
  std::shared_ptr<Progress> progress;
  if (info[3].IsFunction()) progress = std::make_shared<Progress>(info.Env(), info[3].As<Napi::Function>());
  return run_command(info.Env(), model->device(), read_flag(info[4]), [=]() -> Deliver {
    SafetensorsSource source(files);
    MergedSource merged(source, products);
    model->load(merged, [&](double done, double total) {
      if (progress) progress->report(done, total);
    });
    return [](Napi::Env env) { return env.Undefined(); };
  });
}

void prepare_random(RandomSource&, const UNet&) {}

// (model, cancel?): Promise<void>: random weights, for benchmarks
template <class Model> Napi::Value load_random(const Napi::CallbackInfo& info) {
  const auto model = unwrap<Model>(info[0], "model");
  return run_command(info.Env(), model->device(), read_flag(info[1]), [=]() -> Deliver {
    RandomSource source(model->parameters());
    prepare_random(source, *model);
    model->load(source);
    return [](Napi::Env env) { return env.Undefined(); };
  });
}

// (model): { parameters, weightBytes }
template <class Model> Napi::Value describe(const Napi::CallbackInfo& info) {
  const auto model = unwrap<Model>(info[0], "model");
  double parameters = 0;
  for (const auto& p : model->parameters()) parameters += double(p.shape.numel());
  auto o = Napi::Object::New(info.Env());
  o.Set("parameters", parameters);
  o.Set("weightBytes", double(model->weight_bytes()));
  return o;
}

// planUnet(config, dtype, batch, height, width, tokens, guided, precision, device):
// Promise<{ weightBytes, activationBytes, flops }>
Napi::Value plan_unet_binding(const Napi::CallbackInfo& info) {
  const UNetConfig config = UNetConfig::from_json(read_string(info[0], "config"));
  const DType dtype = read_dtype(info[1], "dtype");
  const int64_t batch = read_integer(info[2], "batch", 1, 1 << 16), height = read_integer(info[3], "height", 1, 1 << 16),
                width = read_integer(info[4], "width", 1, 1 << 16), tokens = read_integer(info[5], "tokens", 1, 1 << 16);
  const bool guided = read_boolean(info[6], "guided");
  const Precision precision = read_precision(info[7], "precision");
  const Device meta = read_planned_device(info[8], "device");
  return run_command(info.Env(), kMeta, nullptr, [=]() -> Deliver {
    const MemoryPlan plan = plan_unet(config, dtype, batch, height, width, tokens, guided, precision, meta);
    return [plan](Napi::Env env) { return plan_object(env, plan); };
  });
}

// planT5(config, dtype, int8Weights, batch, tokens, device): Promise<{ weightBytes, activationBytes, flops }>
Napi::Value plan_t5_binding(const Napi::CallbackInfo& info) {
  const T5Config config = T5Config::from_json(read_string(info[0], "config"));
  const DType dtype = read_dtype(info[1], "dtype");
  const bool int8_weights = read_boolean(info[2], "int8Weights");
  const int64_t batch = read_integer(info[3], "batch", 1, 1 << 16), tokens = read_integer(info[4], "tokens", 1, 1 << 16);
  const Device meta = read_planned_device(info[5], "device");
  return run_command(info.Env(), kMeta, nullptr, [=]() -> Deliver {
    const MemoryPlan plan = plan_t5(config, dtype, int8_weights, batch, tokens, meta);
    return [plan](Napi::Env env) { return plan_object(env, plan); };
  });
}

// t5Forward(t5, ids: Int32Array, mask: Int32Array, batch, cancel?): Promise<Tensor> (B, T, d_model) float32
Napi::Value t5_forward(const Napi::CallbackInfo& info) {
  const auto model = unwrap<T5Encoder>(info[0], "t5Forward: model");
  const auto tokens_of = [&](const Napi::Value& v, const char* parameter, int64_t batch) {
    DF_CHECK(v.IsTypedArray() && v.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array,
             "t5Forward: %s must be an Int32Array", parameter);
    auto data = v.As<Napi::Int32Array>();
    const int64_t n = int64_t(data.ElementLength());
    DF_CHECK(n > 0 && n % batch == 0, "t5Forward: %s has %lld values for a batch of %lld", parameter,
             static_cast<long long>(n), static_cast<long long>(batch));
    Tensor t = Tensor::empty({batch, n / batch}, DType::I32, kCpu);
    std::memcpy(t.raw(), data.Data(), t.bytes());
    return t;
  };
  const int64_t batch = read_integer(info[3], "t5Forward: batch", 1, 1 << 16);
  const Tensor ids = tokens_of(info[1], "ids", batch), mask = tokens_of(info[2], "mask", batch);
  return run_command(info.Env(), model->device(), read_flag(info[4]), [=]() -> Deliver {
    const Tensor y = ops::copy(model->forward(ids, mask), DType::F32);
    return [y](Napi::Env env) { return wrap_tensor(env, y); };
  });
}

// unetPrepare(unet, text: Tensor (B, T, C), pooledText: Tensor | null, cancel?): Promise<Conditioning>
Napi::Value unet_prepare(const Napi::CallbackInfo& info) {
  const auto model = unwrap<UNet>(info[0], "unetPrepare: model");
  const Tensor text = unwrap_tensor(info[1], "unetPrepare: text");
  const Tensor pooled = unwrap_optional_tensor(info[2], "unetPrepare: pooledText");
  return run_command(info.Env(), model->device(), read_flag(info[3]), [=]() -> Deliver {
    auto cond = std::make_shared<Conditioning>(model->prepare(text, pooled));
    return [cond](Napi::Env env) { return wrap(env, cond); };
  });
}

// unetForward(unet, x: Tensor NHWC, timesteps: number[], cond, labels: number[] | null, cancel?): Promise<Tensor> NHWC f32
Napi::Value unet_forward(const Napi::CallbackInfo& info) {
  const auto model = unwrap<UNet>(info[0], "unetForward: model");
  const Tensor x = unwrap_tensor(info[1], "unetForward: x");
  const auto vector_tensor = [](const std::vector<float>& v) {
    Tensor t = Tensor::empty({int64_t(v.size())}, DType::F32, kCpu);
    std::memcpy(t.raw(), v.data(), t.bytes());
    return t;
  };
  const Tensor t = vector_tensor(read_floats(info[2], "unetForward: timesteps"));
  const auto cond = unwrap<Conditioning>(info[3], "unetForward: cond");
  const Tensor labels = info[4].IsArray() ? vector_tensor(read_floats(info[4], "unetForward: labels")) : Tensor();
  return run_command(info.Env(), model->device(), read_flag(info[5]), [=]() -> Deliver {
    const Device device = model->device();
    const Tensor input = ops::copy(x, model->dtype());
    const Tensor out = model->forward(input, ops::to_device(t, device), *cond,
                                      labels.defined() ? ops::to_device(labels, device) : Tensor());
    const Tensor y = ops::copy(out, DType::F32);
    return [y](Napi::Env env) { return wrap_tensor(env, y); };
  });
}

}  // namespace

std::vector<LoraProduct> read_products(const Napi::Value& value) {
  if (value.IsNull() || value.IsUndefined()) return {};
  DF_CHECK(value.IsArray(), "lora: expected an array of products");
  std::vector<LoraProduct> all;
  for (uint32_t i = 0; i < value.As<Napi::Array>().Length(); i++) {
    const Napi::Value item = value.As<Napi::Array>().Get(i);
    DF_CHECK(item.IsObject(), "lora: expected an array of products");
    const Napi::Object o = item.As<Napi::Object>();
    LoraProduct p;
    p.module = read_string(o.Get("module"), "lora: module");
    p.factors.down = unwrap_tensor(o.Get("down"), "lora: down");
    p.factors.up = unwrap_tensor(o.Get("up"), "lora: up");
    const double scale = read_number(o.Get("scale"), "lora: scale");
    DF_CHECK(std::isfinite(scale), "lora: scale must be finite, got %g", scale);
    p.factors.scale = float(scale);
    for (const Tensor* t : {&p.factors.down, &p.factors.up})
      DF_CHECK(t->dtype() == DType::F32 && t->device() == kCpu, "lora: factors must be f32 on the CPU, got %s on %s",
               dtype_name(t->dtype()), t->device().str().c_str());
    all.push_back(std::move(p));
  }
  return all;
}

Napi::Value plan_object(Napi::Env env, const MemoryPlan& plan) {
  auto o = Napi::Object::New(env);
  o.Set("weightBytes", double(plan.weight_bytes));
  o.Set("activationBytes", double(plan.activation_bytes));
  o.Set("flops", plan.flops);
  return o;
}

void bind_models(Napi::Env env, Napi::Object exports) {
  bind<unet_create>(env, exports, "unetCreate");
  bind<load<UNet>>(env, exports, "unetLoad");
  bind<load_random<UNet>>(env, exports, "unetLoadRandom");
  bind<describe<UNet>>(env, exports, "unetInfo");
  bind<unet_prepare>(env, exports, "unetPrepare");
  bind<unet_forward>(env, exports, "unetForward");
  bind<plan_unet_binding>(env, exports, "planUnet");
  bind<t5_create>(env, exports, "t5Create");
  bind<load<T5Encoder>>(env, exports, "t5Load");
  bind<load_random<T5Encoder>>(env, exports, "t5LoadRandom");
  bind<describe<T5Encoder>>(env, exports, "t5Info");
  bind<t5_forward>(env, exports, "t5Forward");
  bind<plan_t5_binding>(env, exports, "planT5");
}

}  // namespace df::addon
