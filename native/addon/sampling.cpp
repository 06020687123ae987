// The sampler's unit of the boundary: one command per denoising step.
#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/handles.h"
#include "core/execution.h"
#include "nn/denoise.h"

namespace df::addon {
namespace {

// The coefficients of lib/diffusion/ddpm.ts (DdpmStep); field names agree.
DdpmStep read_step(const Napi::Value& value) {
  DF_CHECK(value.IsObject(), "step: expected an object of coefficients");
  const Napi::Object o = value.As<Napi::Object>();
  const auto number = [&](const char* name) { return float(read_number(o.Get(name), name)); };
  DdpmStep s;
  s.sample_scale = number("sampleScale");
  s.output_scale = number("outputScale");
  s.x0_coef = number("x0Coef");
  s.x_coef = number("xCoef");
  s.add_noise = read_boolean(o.Get("addNoise"), "addNoise");
  const std::string threshold = read_string(o.Get("threshold"), "threshold");
  if (threshold == "none") s.threshold = DdpmStep::Threshold::None;
  else if (threshold == "clip") s.threshold = DdpmStep::Threshold::Clip;
  else if (threshold == "dynamic") s.threshold = DdpmStep::Threshold::Dynamic;
  else fail(ErrorCode::InvalidArgument, "threshold: expected none, clip or dynamic, got \"%s\"", threshold.c_str());
  s.clip_range = number("clipRange");
  s.ratio = number("ratio");
  s.max_value = number("maxValue");
  const std::string variance = read_string(o.Get("variance"), "variance");
  if (variance == "fixed") s.variance = DdpmStep::Variance::Fixed;
  else if (variance == "learned_range") s.variance = DdpmStep::Variance::LearnedRange;
  else if (variance == "learned") s.variance = DdpmStep::Variance::Learned;
  else fail(ErrorCode::InvalidArgument, "variance: expected fixed, learned_range or learned, got \"%s\"", variance.c_str());
  s.sigma = number("sigma");
  s.min_log = number("minLog");
  s.max_log = number("maxLog");
  return s;
}

// denoiseStep({ unet, cond, x, lowRes, timestep, noiseLevel, guidance, step, generator }, cancel?):
//   Promise<{ x: Tensor, x0: Tensor, flops: number }>
Napi::Value denoise_step_binding(const Napi::CallbackInfo& info) {
  DF_CHECK(info[0].IsObject(), "denoiseStep: expected an object");
  const Napi::Object o = info[0].As<Napi::Object>();
  const auto unet = unwrap<UNet>(o.Get("unet"), "denoiseStep: unet");
  const auto cond = unwrap<Conditioning>(o.Get("cond"), "denoiseStep: cond");
  DenoiseState state;
  state.x = unwrap_tensor(o.Get("x"), "denoiseStep: x");
  state.low_res = unwrap_optional_tensor(o.Get("lowRes"), "denoiseStep: lowRes");
  state.timestep = float(read_number(o.Get("timestep"), "denoiseStep: timestep"));
  state.noise_level = float(read_number(o.Get("noiseLevel"), "denoiseStep: noiseLevel"));
  DdpmStep step = read_step(o.Get("step"));
  step.guidance = float(read_number(o.Get("guidance"), "denoiseStep: guidance"));
  const auto generator = unwrap<TorchGenerator>(o.Get("generator"), "denoiseStep: generator");
  const CancelFlag flag = unwrap_optional<std::atomic<bool>>(info[1], "cancel");
  return run_command(info.Env(), unet->device(), flag, [=]() -> Deliver {
    WorkCounter work;
    Execution execution = Execution::current();
    execution.work = &work;
    ExecutionScope scope(execution);
    const Shape& s = state.x.shape();
    DF_CHECK(s.rank() == 4, "denoiseStep: x must be (B, H, W, C), got %s", s.str().c_str());
    Tensor noise;
    if (step.add_noise) noise = draw_noise(*generator, {s[0], s[3], s[1], s[2]}, unet->device());
    const ops::DdpmResult r = denoise_step(*unet, *cond, state, noise, step, true);
    return [r, flops = work.flops](Napi::Env env) -> Napi::Value {
      auto result = Napi::Object::New(env);
      result.Set("x", wrap_tensor(env, r.prev));
      result.Set("x0", wrap_tensor(env, r.x0));
      result.Set("flops", flops);
      return result;
    };
  });
}

}  // namespace

void bind_sampling(Napi::Env env, Napi::Object exports) { bind<denoise_step_binding>(env, exports, "denoiseStep"); }

}  // namespace df::addon
