// The groups of bindings; lib/addon.ts types the whole surface.
#pragma once
#include "addon/commands.h"
#include "addon/napi_setup.h"
#include "core/random.h"
#include "core/tensor.h"
#include "io/safetensors.h"
#include "nn/lora.h"
#include "nn/memory_plan.h"

namespace df::addon {

template <Napi::Value (*Binding)(const Napi::CallbackInfo&)>
void bind(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<translate<Binding>>(env, name));
}

void bind_tensors(Napi::Env env, Napi::Object exports);
void bind_models(Napi::Env env, Napi::Object exports);
void bind_sampling(Napi::Env env, Napi::Object exports);
void bind_images(Napi::Env env, Napi::Object exports);
void bind_files(Napi::Env env, Napi::Object exports);
void bind_benchmarks(Napi::Env env, Napi::Object exports);
void bind_training(Napi::Env env, Napi::Object exports);
void bind_system(Napi::Env env, Napi::Object exports);

/// { weightBytes, activationBytes, flops }.
Napi::Value plan_object(Napi::Env env, const MemoryPlan& plan);
/// [{ module, down: Tensor, up: Tensor, scale }, …]; null: none.
std::vector<LoraProduct> read_products(const Napi::Value& value);
/// Pairs of strings, for a file.
Metadata read_metadata(const Napi::Value& v, const char* parameter);
/// Normal noise (N, C, H, W) of torch's CPU generator as an NHWC float32 tensor on `device`.
Tensor draw_noise(TorchGenerator& generator, const Shape& nchw, Device device);

}  // namespace df::addon
