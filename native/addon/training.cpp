// A model in training: one command per micro-batch and one per optimizer step.
#include <algorithm>
#include <mutex>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/handles.h"
#include "core/execution.h"
#include "ops/ops.h"
#include "training/trainer.h"

namespace df::addon {
namespace {

CancelFlag read_flag(const Napi::Value& v) { return unwrap_optional<std::atomic<bool>>(v, "cancel"); }

Napi::Object read_object(const Napi::Value& v, const char* parameter) {
  DF_CHECK(v.IsObject(), "%s: expected an object", parameter);
  return v.As<Napi::Object>();
}

template <class T> T read_choice(const Napi::Value& v, const char* parameter,
                                 const std::vector<std::pair<const char*, T>>& choices) {
  const std::string s = read_string(v, parameter);
  std::string names;
  for (const auto& [name, value] : choices) {
    if (s == name) return value;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  fail(ErrorCode::InvalidArgument, "%s: expected one of %s, got \"%s\"", parameter, names.c_str(), s.c_str());
}

uint64_t read_seed(const Napi::Value& v, const char* parameter) {
  DF_CHECK(v.IsBigInt(), "%s: expected a bigint", parameter);
  bool lossless = true;
  const uint64_t seed = v.As<Napi::BigInt>().Uint64Value(&lossless);
  DF_CHECK(lossless, "%s: expected a bigint in [0, 2^64)", parameter);
  return seed;
}

// A finite number; the field's name is in the message.
float read_coefficient(const Napi::Object& o, const char* name) {
  const double v = read_number(o.Get(name), name);
  DF_CHECK(std::isfinite(v), "%s: expected a finite number, got %g", name, v);
  return float(v);
}

TrainedLora read_lora(const Napi::Object& o) {
  TrainedLora lora;
  lora.rank = read_integer(o.Get("rank"), "options.lora.rank", 1, 1 << 16);
  lora.alpha = read_number(o.Get("alpha"), "options.lora.alpha");
  lora.dropout = read_number(o.Get("dropout"), "options.lora.dropout");
  lora.targets = read_strings(o.Get("targets"), "options.lora.targets");
  lora.text_targets = read_strings(o.Get("textTargets"), "options.lora.textTargets");
  return lora;
}

TrainerOptions read_options(const Napi::Value& value) {
  const Napi::Object o = read_object(value, "options");
  TrainerOptions options;
  options.dtype = read_dtype(o.Get("dtype"), "options.dtype");
  DF_CHECK(options.dtype != DType::F16, "options.dtype: expected f32 or bf16 in training, got f16");
  options.precision = read_precision(o.Get("precision"), "options.precision");
  options.checkpointing = read_boolean(o.Get("checkpointing"), "options.checkpointing");
  options.ema = read_boolean(o.Get("ema"), "options.ema");
  if (const Napi::Value lora = o.Get("lora"); !lora.IsNull()) options.lora = read_lora(read_object(lora, "options.lora"));
  return options;
}

std::optional<T5Config> read_t5_config(const Napi::Value& v) {
  if (v.IsNull() || v.IsUndefined()) return std::nullopt;
  return T5Config::from_json(read_string(v, "t5Config"));
}

Trainer::Part read_part(const Napi::Value& v) {
  using Part = Trainer::Part;
  return read_choice<Part>(v, "part", {{"unet", Part::Unet}, {"unet_ema", Part::UnetEma},
                                       {"unet_moments", Part::UnetMoments}, {"t5", Part::T5}, {"t5_ema", Part::T5Ema},
                                       {"t5_moments", Part::T5Moments}});
}

TrainingSample read_sample(const Napi::Value& value) {
  const Napi::Object o = read_object(value, "samples");
  const auto number = [&](const char* name) { return read_coefficient(o, name); };
  TrainingSample s;
  s.index = uint64_t(read_integer(o.Get("index"), "index", 0, int64_t(1) << 53));
  s.timestep = number("timestep");
  s.image_scale = number("imageScale");
  s.noise_scale = number("noiseScale");
  s.noise_level = number("noiseLevel");
  s.low_res_scale = number("lowResScale");
  s.low_res_noise_scale = number("lowResNoiseScale");
  s.loss.target_x0 = number("targetX0");
  s.loss.target_noise = number("targetNoise");
  s.loss.weight = number("weight");
  s.loss.variational_weight = number("variationalWeight");
  s.loss.sample_scale = number("sampleScale");
  s.loss.output_scale = number("outputScale");
  s.loss.x0_coef = number("x0Coef");
  s.loss.x_coef = number("xCoef");
  s.loss.true_log = number("trueLog");
  s.loss.min_log = number("minLog");
  s.loss.max_log = number("maxLog");
  s.loss.last = read_boolean(o.Get("last"), "last");
  return s;
}

// A copy of the RGB bytes (batch, height, width, 3).
Tensor read_pixels(const Napi::Value& v, const char* parameter, int64_t batch, int64_t height, int64_t width) {
  DF_CHECK(v.IsTypedArray() && v.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array,
           "%s: expected a Uint8Array", parameter);
  const auto data = v.As<Napi::Uint8Array>();
  const Shape shape{batch, height, width, 3};
  DF_CHECK(int64_t(data.ElementLength()) == shape.numel(), "%s: %s needs %lld bytes, got %zu", parameter,
           shape.str().c_str(), static_cast<long long>(shape.numel()), data.ElementLength());
  const Tensor t = Tensor::empty(shape, DType::U8, kCpu);
  std::memcpy(t.raw(), data.Data(), t.bytes());
  return t;
}

Tensor read_tokens(const Napi::Value& v, const char* parameter, int64_t batch) {
  DF_CHECK(v.IsTypedArray() && v.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array,
           "%s: expected an Int32Array", parameter);
  const auto data = v.As<Napi::Int32Array>();
  const int64_t n = int64_t(data.ElementLength());
  DF_CHECK(n > 0 && n % batch == 0, "%s: %lld values for a batch of %lld", parameter, static_cast<long long>(n),
           static_cast<long long>(batch));
  const Tensor t = Tensor::empty({batch, n / batch}, DType::I32, kCpu);
  std::memcpy(t.raw(), data.Data(), t.bytes());
  return t;
}

// A micro-batch as JavaScript gave it: the pictures are still bytes.
MicroBatch read_batch(const Napi::Value& value) {
  const Napi::Object o = read_object(value, "batch");
  MicroBatch b;
  const Napi::Value samples = o.Get("samples");
  DF_CHECK(samples.IsArray() && samples.As<Napi::Array>().Length() > 0, "samples: expected an array of samples");
  for (uint32_t i = 0; i < samples.As<Napi::Array>().Length(); i++)
    b.samples.push_back(read_sample(samples.As<Napi::Array>().Get(i)));
  const int64_t batch = int64_t(b.samples.size());
  const auto size = [&](const char* name) { return read_integer(o.Get(name), name, 1, 1 << 14); };
  const Napi::Object noise = read_object(o.Get("noise"), "noise");
  b.noise.offset = read_coefficient(noise, "offset");
  b.noise.pyramid_discount = read_coefficient(noise, "pyramidDiscount");
  b.noise.input_perturbation = read_coefficient(noise, "inputPerturbation");
  b.seed = read_seed(o.Get("seed"), "seed");
  b.main = read_choice<DiffusionLoss::Main>(
      o.Get("loss"), "loss", {{"mse", DiffusionLoss::Main::Mse}, {"huber", DiffusionLoss::Main::Huber}});
  b.huber_delta = read_coefficient(o, "huberDelta");
  b.gradient_scale = read_coefficient(o, "gradientScale");
  b.text = unwrap_optional_tensor(o.Get("text"), "text");
  // buffers last: reading a property may run JavaScript that resizes them
  if (!o.Get("ids").IsNull()) b.ids = read_tokens(o.Get("ids"), "ids", batch);
  if (!o.Get("mask").IsNull()) b.mask = read_tokens(o.Get("mask"), "mask", batch);
  if (!o.Get("lowRes").IsNull())
    b.low_res = read_pixels(o.Get("lowRes"), "lowRes", batch, size("lowResHeight"), size("lowResWidth"));
  b.images = read_pixels(o.Get("images"), "images", batch, size("height"), size("width"));
  return b;
}

// Bytes → [-1, 1] float32 on `device`.
Tensor to_signed(const Tensor& pixels, Device device) {
  float values[256];
  for (int i = 0; i < 256; i++) values[i] = float(i / 127.5 - 1);
  const Tensor t = Tensor::empty(pixels.shape(), DType::F32, kCpu);
  const uint8_t* from = pixels.data<uint8_t>();
  float* to = t.data<float>();
  parallel_ranges(t.numel(), 1 << 18, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) to[i] = values[from[i]];
  });
  return device == kCpu ? t : ops::to_device(t, device);
}

// On the queue's thread: pictures and text on the device of the trainer.
MicroBatch on_device(MicroBatch b, Device device) {
  b.images = to_signed(b.images, device);
  if (b.low_res.defined()) b.low_res = to_signed(b.low_res, device);
  if (b.text.defined() && b.text.device() != device) b.text = ops::to_device(b.text, device);
  return b;
}

Deliver nothing() {
  return [](Napi::Env env) -> Napi::Value { return env.Undefined(); };
}

Napi::Value float_array(Napi::Env env, const Tensor& t) {
  auto out = Napi::Float32Array::New(env, size_t(t.numel()));
  std::memcpy(out.Data(), t.raw(), t.bytes());
  return out;
}

// trainerCreate(unetConfig, t5Config | null, device, options): Promise<Trainer>
Napi::Value create(const Napi::CallbackInfo& info) {
  const UNetConfig unet = UNetConfig::from_json(read_string(info[0], "unetConfig"));
  const std::optional<T5Config> t5 = read_t5_config(info[1]);
  const Device device = read_device(info[2], "device");
  const TrainerOptions options = read_options(info[3]);
  return run_command(info.Env(), device, nullptr, [=]() -> Deliver {
    auto trainer = std::make_shared<SharedTrainer>(unet, t5, device, options);
    return [trainer](Napi::Env env) { return wrap(env, trainer, int64_t(trainer->trainer.bytes())); };
  });
}

// Runs `execute(trainer)` on its queue, alone.
template <class F>
Napi::Promise run_on_trainer(Napi::Env env, std::shared_ptr<SharedTrainer> shared, CancelFlag cancelled, F execute) {
  return run_command(env, shared->trainer.device(), std::move(cancelled), [=]() -> Deliver {
    std::lock_guard<std::mutex> lock(shared->mutex);
    return execute(shared->trainer);
  });
}

// trainerLoad(trainer, unetFiles, t5Files | null, seed: bigint, onProgress?, cancel?): Promise<void>
Napi::Value load(const Napi::CallbackInfo& info) {
  const auto shared = unwrap<SharedTrainer>(info[0], "trainer");
  const std::vector<std::string> files = read_strings(info[1], "unetFiles");
  const bool with_t5 = !info[2].IsNull() && !info[2].IsUndefined();
  const std::vector<std::string> t5_files = with_t5 ? read_strings(info[2], "t5Files") : std::vector<std::string>();
  const uint64_t seed = read_seed(info[3], "seed");
  std::shared_ptr<Progress> progress;
  if (info[4].IsFunction()) progress = std::make_shared<Progress>(info.Env(), info[4].As<Napi::Function>());
  return run_on_trainer(info.Env(), shared, read_flag(info[5]), [=](Trainer& trainer) {
    SafetensorsSource unet(files);
    std::optional<SafetensorsSource> t5;
    if (with_t5) t5.emplace(t5_files);
    trainer.load(unet, t5 ? &*t5 : nullptr, [&](double done, double total) {
      if (progress) progress->report(done, total);
    }, seed);
    return nothing();
  });
}

// trainerInitialise(trainer, seed: bigint, cancel?): Promise<void>
Napi::Value initialise(const Napi::CallbackInfo& info) {
  const uint64_t seed = read_seed(info[1], "seed");
  return run_on_trainer(info.Env(), unwrap<SharedTrainer>(info[0], "trainer"), read_flag(info[2]),
                        [=](Trainer& trainer) {
                          trainer.initialise(seed);
                          return nothing();
                        });
}

// trainerInfo(trainer): { parameters, bytes }
Napi::Value describe(const Napi::CallbackInfo& info) {
  const auto shared = unwrap<SharedTrainer>(info[0], "trainer");
  auto o = Napi::Object::New(info.Env());
  o.Set("parameters", double(shared->trainer.parameter_count()));
  o.Set("bytes", double(shared->trainer.bytes()));
  return o;
}

// trainerAccumulate(trainer, batch, cancel?): Promise<{ terms: Float32Array, flops: number }>
Napi::Value accumulate(const Napi::CallbackInfo& info) {
  const auto shared = unwrap<SharedTrainer>(info[0], "trainer");
  const MicroBatch batch = read_batch(info[1]);
  return run_on_trainer(info.Env(), shared, read_flag(info[2]), [=](Trainer& trainer) -> Deliver {
    WorkCounter work;
    Execution execution = Execution::current();
    execution.work = &work;
    ExecutionScope scope(execution);
    const Tensor terms = ops::to_device(trainer.accumulate(on_device(batch, trainer.device())), kCpu);
    return [terms, flops = work.flops](Napi::Env env) -> Napi::Value {
      auto o = Napi::Object::New(env);
      o.Set("terms", float_array(env, terms));
      o.Set("flops", flops);
      return o;
    };
  });
}

// trainerEvaluate(trainer, batch, ema, cancel?): Promise<{ terms: Float32Array }>
Napi::Value evaluate(const Napi::CallbackInfo& info) {
  const auto shared = unwrap<SharedTrainer>(info[0], "trainer");
  const bool ema = read_boolean(info[2], "ema");
  const MicroBatch batch = read_batch(info[1]);
  return run_on_trainer(info.Env(), shared, read_flag(info[3]), [=](Trainer& trainer) -> Deliver {
    const Tensor terms = ops::to_device(trainer.evaluate(on_device(batch, trainer.device()), ema), kCpu);
    return [terms](Napi::Env env) -> Napi::Value {
      auto o = Napi::Object::New(env);
      o.Set("terms", float_array(env, terms));
      return o;
    };
  });
}

// trainerReduce(trainers, cancel?): Promise<void>, on the queue of the first
Napi::Value reduce(const Napi::CallbackInfo& info) {
  DF_CHECK(info[0].IsArray() && info[0].As<Napi::Array>().Length() > 0, "trainers: expected an array of trainers");
  std::vector<std::shared_ptr<SharedTrainer>> replicas;
  for (uint32_t i = 0; i < info[0].As<Napi::Array>().Length(); i++) {
    replicas.push_back(unwrap<SharedTrainer>(info[0].As<Napi::Array>().Get(i), "trainers"));
    DF_CHECK(std::find(replicas.begin(), replicas.end() - 1, replicas.back()) == replicas.end() - 1,
             "trainers: a trainer is given twice");
  }
  return run_command(info.Env(), replicas[0]->trainer.device(), read_flag(info[1]), [=]() -> Deliver {
    auto ordered = replicas;  // by address, so that two of these commands cannot wait for each other
    std::sort(ordered.begin(), ordered.end());
    std::vector<std::unique_lock<std::mutex>> locks;
    for (const auto& shared : ordered) locks.emplace_back(shared->mutex);
    std::vector<Trainer*> trainers;
    for (const auto& shared : replicas) trainers.push_back(&shared->trainer);
    reduce_gradients(trainers);
    return nothing();
  });
}

// trainerStep(trainer, step, cancel?): Promise<{ gradientNorm, applied }>
Napi::Value step(const Napi::CallbackInfo& info) {
  const auto shared = unwrap<SharedTrainer>(info[0], "trainer");
  const Napi::Object o = read_object(info[1], "step");
  const auto number = [&](const char* name) { return read_number(o.Get(name), name); };
  OptimizerStep p;
  p.step = read_integer(o.Get("step"), "step", 1, int64_t(1) << 53);
  p.lr = number("lr");
  p.weight_decay = number("weightDecay");
  p.beta1 = number("beta1");
  p.beta2 = number("beta2");
  p.eps = number("eps");
  p.clip_norm = number("clipNorm");
  p.ema_decay = number("emaDecay");
  p.norm_limit = number("normLimit");
  return run_on_trainer(info.Env(), shared, read_flag(info[2]), [=](Trainer& trainer) -> Deliver {
    const OptimizerResult r = trainer.step(p);
    return [r](Napi::Env env) -> Napi::Value {
      auto result = Napi::Object::New(env);
      result.Set("gradientNorm", r.gradient_norm);
      result.Set("applied", r.applied);
      return result;
    };
  });
}

// trainerSave(trainer, path, part, dtype, metadata: [string, string][], cancel?): Promise<void>
Napi::Value save(const Napi::CallbackInfo& info) {
  const auto shared = unwrap<SharedTrainer>(info[0], "trainer");
  const std::string path = read_string(info[1], "path");
  const Trainer::Part part = read_part(info[2]);
  const DType dtype = read_dtype(info[3], "dtype");
  const Metadata metadata = read_metadata(info[4], "metadata");
  return run_on_trainer(info.Env(), shared, read_flag(info[5]), [=](Trainer& trainer) {
    trainer.save(path, part, dtype, metadata);
    return nothing();
  });
}

// trainerRestore(trainer, path, part, cancel?): Promise<void>
Napi::Value restore(const Napi::CallbackInfo& info) {
  const auto shared = unwrap<SharedTrainer>(info[0], "trainer");
  const std::string path = read_string(info[1], "path");
  const Trainer::Part part = read_part(info[2]);
  return run_on_trainer(info.Env(), shared, read_flag(info[3]), [=](Trainer& trainer) {
    trainer.restore(path, part);
    return nothing();
  });
}

// (trainer, dtype, ema, cancel?): Promise<Model>
template <class Model, std::shared_ptr<Model> (Trainer::*Copy)(DType, bool) const>
Napi::Value copy(const Napi::CallbackInfo& info) {
  const auto shared = unwrap<SharedTrainer>(info[0], "trainer");
  const DType dtype = read_dtype(info[1], "dtype");
  const bool ema = read_boolean(info[2], "ema");
  return run_on_trainer(info.Env(), shared, read_flag(info[3]), [=](Trainer& trainer) -> Deliver {
    const std::shared_ptr<Model> model = (trainer.*Copy)(dtype, ema);
    return [model](Napi::Env env) { return wrap(env, model, int64_t(model->weight_bytes())); };
  });
}

// planTrainer(unetConfig, t5Config | null, options, batch, height, width, tokens, device):
// Promise<{ weightBytes, activationBytes, flops }>
Napi::Value plan(const Napi::CallbackInfo& info) {
  const UNetConfig unet = UNetConfig::from_json(read_string(info[0], "unetConfig"));
  const std::optional<T5Config> t5 = read_t5_config(info[1]);
  const TrainerOptions options = read_options(info[2]);
  const int64_t batch = read_integer(info[3], "batch", 1, 1 << 16), height = read_integer(info[4], "height", 1, 1 << 14),
                width = read_integer(info[5], "width", 1, 1 << 14), tokens = read_integer(info[6], "tokens", 1, 1 << 16);
  const Device meta = read_planned_device(info[7], "device");
  return run_command(info.Env(), kMeta, nullptr, [=]() -> Deliver {
    const MemoryPlan p = plan_trainer(unet, t5, options, batch, height, width, tokens, meta);
    return [p](Napi::Env env) { return plan_object(env, p); };
  });
}

}  // namespace

void bind_training(Napi::Env env, Napi::Object exports) {
  bind<create>(env, exports, "trainerCreate");
  bind<load>(env, exports, "trainerLoad");
  bind<initialise>(env, exports, "trainerInitialise");
  bind<describe>(env, exports, "trainerInfo");
  bind<accumulate>(env, exports, "trainerAccumulate");
  bind<evaluate>(env, exports, "trainerEvaluate");
  bind<reduce>(env, exports, "trainerReduce");
  bind<step>(env, exports, "trainerStep");
  bind<save>(env, exports, "trainerSave");
  bind<restore>(env, exports, "trainerRestore");
  bind<copy<UNet, &Trainer::unet>>(env, exports, "trainerUnet");
  bind<copy<T5Encoder, &Trainer::t5>>(env, exports, "trainerT5");
  bind<plan>(env, exports, "planTrainer");
}

}  // namespace df::addon
