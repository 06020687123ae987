// The trainer: torch's three AdamW steps (test/golden/README.md: 2e-4 relative), replicas, files, initial values,
// cancellation, and the memory plan.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <thread>

#include "compare.h"
#include "core/execution.h"
#include "core/philox.h"
#include "device_case.h"
#include "golden_models.h"
#include "harness.h"
#include "ops/backend.h"
#include "ops/ops.h"
#include "tensors.h"
#include "training/initial_source.h"
#include "training/trainer.h"

namespace df::test {
namespace {

constexpr double kTolerance = 2e-4;
using Part = Trainer::Part;

Trainer loaded_trainer(const char* folder, bool with_t5, const TrainerOptions& options, Device device = kCpu) {
  Trainer trainer(golden_unet_config(folder), with_t5 ? std::optional(golden_t5_config()) : std::nullopt, device, options);
  SafetensorsSource unet = golden_unet_source(folder), t5 = golden_t5_source();
  trainer.load(unet, with_t5 ? &t5 : nullptr);
  return trainer;
}

// Numbers of one endless sequence of samples, uniform in [-1, 1).
Tensor sample_numbers(uint32_t purpose, int64_t first, const Shape& shape) {
  const Tensor t = Tensor::empty(shape, DType::F32, kCpu);
  const int64_t n = t.numel() / shape[0];
  for (int64_t i = 0; i < shape[0]; i++) Philox(1, purpose, uint64_t(first + i)).uniform(t.data<float>() + i * n, n);
  for (int64_t i = 0; i < t.numel(); i++) t.data<float>()[i] = 2 * t.data<float>()[i] - 1;
  return t;
}

// Samples [first, first + items) of a stage II with learned variance, text as ids where the text encoder is trained.
MicroBatch stage_two_batch(int64_t first, int64_t items, int64_t of, bool with_t5) {
  MicroBatch b;
  b.images = sample_numbers(100, first, {items, 16, 16, 3});
  b.low_res = sample_numbers(101, first, {items, 4, 4, 3});
  if (with_t5) {
    std::vector<int32_t> ids, mask;
    for (int64_t i = 0; i < items; i++)
      for (int j = 0; j < 6; j++) {
        ids.push_back(int32_t(((first + i) * 7 + j * 13) % 2000));
        mask.push_back(j < 3 + (first + i) % 4);
      }
    b.ids = ints({items, 6}, ids);
    b.mask = ints({items, 6}, mask);
  } else {
    b.text = sample_numbers(102, first, {items, 6, 64});
  }
  for (int64_t i = 0; i < items; i++) {
    TrainingSample s;
    s.index = uint64_t(first + i);
    s.timestep = float((first + i) * 211 % 1000);
    s.image_scale = 0.8f;
    s.noise_scale = 0.6f;
    s.noise_level = float((first + i) * 97 % 1000);
    s.low_res_scale = 0.9f;
    s.low_res_noise_scale = 0.435f;
    s.loss = {.variational_weight = 1e-3f, .sample_scale = 1.25f, .output_scale = -0.75f, .x0_coef = 0.4f,
              .x_coef = 0.5f, .true_log = -3, .min_log = -3, .max_log = -1, .last = (first + i) % 3 == 0};
    b.samples.push_back(s);
  }
  b.noise = {.offset = 0.05f, .pyramid_discount = 0, .input_perturbation = 0.1f};
  b.seed = 3;
  b.gradient_scale = 1 / float(of);
  return b;
}

std::vector<Tensor> states(Trainer& trainer, std::vector<Tensor> TrainedModel::*state) {
  std::vector<Tensor> all;
  for (const TrainedModel* m : trainer.models())
    for (const Tensor& t : m->*state) all.push_back(on(t, kCpu));
  return all;
}

void check_same(const char* what, const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  CHECK(a.size() == b.size() && !a.empty());
  for (size_t i = 0; i < a.size(); i++) {
    const std::string error = different_bits(a[i], b[i]);
    if (!error.empty()) fail_case("%s: tensor %zu: %s", what, i, error.c_str());
  }
}

bool all_zero(const std::vector<Tensor>& state) {
  for (const Tensor& t : state)
    for (int64_t i = 0; i < t.numel(); i++)
      if (!(t.data<float>()[i] == 0)) return false;
  return true;
}

// ---- three AdamW steps of torch

void check_adamw(bool exact, bool checkpointing, Device device = kCpu) {
  TrainerOptions options{.dtype = DType::F32, .precision = exact ? Precision::Exact : Precision::Default, .checkpointing = checkpointing, .ema = false};
  Trainer trainer = loaded_trainer("training/unet", false, options, device);
  const auto io = golden("training/adamw_io");
  const Tensor cumulative = golden("schedulers/tables")->tensor("alphas_cumprod");
  const Json expected = golden_json("training/adamw.json");
  for (int i = 0; i < 3; i++) {
    const auto nhwc = [&](const char* name) {
      return ops::nchw_to_nhwc(on(io->tensor(name + std::to_string(i)), device), DType::F32);
    };
    MicroBatch b;
    b.images = nhwc("x");
    b.text = on(io->tensor("text" + std::to_string(i)), device);
    NoisedImages images{.noise = nhwc("noise"), .xt = Tensor::empty(b.images.shape(), DType::F32, device), .low_res = {}};
    const Tensor t = io->tensor("timestep" + std::to_string(i) + ".i64");
    std::vector<float> image_scale, noise_scale;
    for (int64_t n = 0; n < 2; n++) {
      const double kept = cumulative.data<float>()[t.data<int64_t>()[n]];
      image_scale.push_back(float(std::sqrt(kept)));
      noise_scale.push_back(float(std::sqrt(1 - kept)));
      TrainingSample s;
      s.timestep = float(t.data<int64_t>()[n]);
      b.samples.push_back(s);
    }
    backend_for(device).blend(images.xt, image_scale, b.images, noise_scale, images.noise);
    b.gradient_scale = 0.5f;
    const Tensor terms = on(trainer.accumulate(b, images), kCpu);
    const double loss = (double(terms.data<float>()[0]) + terms.data<float>()[2]) / 2;
    const double want_loss = expected.items()[size_t(i)].find("loss")->number();
    const OptimizerResult r = trainer.step({.step = i + 1, .lr = 1e-3, .clip_norm = 1});
    const double want_norm = expected.items()[size_t(i)].find("grad_norm")->number();
    CHECK(r.applied);
    if (!(std::abs(loss / want_loss - 1) <= kTolerance)) fail_case("loss %d: %.9g, expected %.9g", i, loss, want_loss);
    if (!(std::abs(r.gradient_norm / want_norm - 1) <= kTolerance))
      fail_case("norm %d: %.9g, expected %.9g", i, r.gradient_norm, want_norm);
  }
  const auto after = golden("training/adamw_after3");
  const TrainedModel& model = *trainer.models()[0];
  std::map<std::string, std::string> records;
  for (const std::string& name : after->names()) records[parse_record(name).name] = name;
  size_t compared = 0;
  const Json names = golden_json("training/adamw_compare.json");
  for (const Json& name : names.items()) {
    const std::string& record = records.at(name.string());
    const Tensor got = model.store->read_state(name.string(), model.values);
    check_close(record, thinned(got, parse_record(record)), after->tensor(record), kTolerance);
    compared++;
  }
  CHECK(compared > 100);
}

const Registration adamw([](Suite& suite) {
  suite.add("trainer golden AdamW exact", [] { check_adamw(true, false); });
  suite.add("trainer golden AdamW default", [] { check_adamw(false, false); });
  suite.add("trainer golden AdamW checkpointing", [] { check_adamw(false, true); });
  add_device_case(suite, "trainer golden AdamW on a device", [] { check_adamw(true, false, kCuda); });
});

// ---- the same bits however the batch is cut

MicroBatch on_device(MicroBatch b, Device device) {
  for (Tensor* t : {&b.images, &b.low_res, &b.text}) *t = on(*t, device);
  return b;
}

void check_replicas(DType dtype, bool checkpointing, int replicas, DeviceType type = DeviceType::Cpu) {
  const TrainerOptions options{.dtype = dtype, .precision = Precision::Default, .checkpointing = checkpointing, .ema = true};
  const int64_t items = 2 * replicas;
  Trainer one = loaded_trainer("tiny-if-II/unet", true, options, {type, 0});
  const Tensor terms = on(one.accumulate(on_device(stage_two_batch(0, items, items, true), {type, 0})), kCpu);
  std::vector<Trainer> parts;
  std::vector<Trainer*> pointers;
  for (int i = 0; i < replicas; i++)
    parts.push_back(loaded_trainer("tiny-if-II/unet", true, options, {type, i}));
  for (int i = 0; i < replicas; i++) {
    const MicroBatch batch = on_device(stage_two_batch(2 * i, 2, items, true), parts[size_t(i)].device());
    const Tensor some = on(parts[size_t(i)].accumulate(batch), kCpu);
    check_same("terms", {some}, {terms.slice_first(2 * i, 2)});
    pointers.push_back(&parts[size_t(i)]);
  }
  reduce_gradients(pointers);
  const std::vector<Tensor> gradients = states(one, &TrainedModel::gradients);
  CHECK(!all_zero(gradients));
  for (Trainer& part : parts) check_same("gradients", states(part, &TrainedModel::gradients), gradients);
  const OptimizerStep step{.step = 1, .lr = 1e-3, .clip_norm = 1, .ema_decay = 0.9};
  const double norm = one.step(step).gradient_norm;
  for (Trainer& part : parts) {
    CHECK(part.step(step).gradient_norm == norm);
    check_same("values", states(part, &TrainedModel::values), states(one, &TrainedModel::values));
    check_same("ema", states(part, &TrainedModel::ema), states(one, &TrainedModel::ema));
  }
}

const Registration replicas([](Suite& suite) {
  for (const DType dtype : {DType::F32, DType::BF16})
    suite.add(format("trainer two replicas of two are one of four, %s", dtype_name(dtype)),
              [dtype] { check_replicas(dtype, dtype == DType::BF16, 2); });
  suite.add("trainer four replicas of two are one of eight", [] { check_replicas(DType::F32, false, 4); });
  add_device_case(suite, "trainer two replicas on two devices",
                  [] { check_replicas(DType::BF16, false, 2, DeviceType::Cuda); }, 2);

  suite.add("trainer refuses replicas that do not fit", [] {
    Trainer a = loaded_trainer("tiny-if-I/unet", false, {.dtype = DType::F32}),
            b = loaded_trainer("tiny-if-II/unet", false, {.dtype = DType::F32});
    const auto refused = [](const char* part, const std::vector<Trainer*>& r) {
      expect_error(ErrorCode::InvalidArgument, part, [&] { reduce_gradients(r); });
    };
    refused("must not be empty", {});
    refused("given twice", {&a, &a});
    refused("of one model", {&a, &b});
  });

  suite.add("trainer 1 and 2 threads", [] {
    std::vector<Tensor> values[2];
    for (int i = 0; i < 2; i++) {
      ThreadPool pool(i + 1);
      Execution execution;
      execution.pool = &pool;
      ExecutionScope scope(execution);
      Trainer trainer = loaded_trainer("tiny-if-II/unet", true, {.dtype = DType::BF16, .ema = true});
      for (int n = 1; n <= 2; n++) {
        trainer.accumulate(stage_two_batch(2 * n, 2, 2, true));
        trainer.step({.step = n, .lr = 1e-3, .clip_norm = 1, .ema_decay = 0.9});
      }
      values[i] = states(trainer, &TrainedModel::values);
      for (const Tensor& t : states(trainer, &TrainedModel::ema)) values[i].push_back(t);
    }
    check_same("values", values[0], values[1]);
  });
});

// ---- files

// A folder that goes away with the case.
struct Folder {
  std::string path = (std::filesystem::temp_directory_path() / format("if-trainer-%d", int(getpid()))).string();
  Folder() { std::filesystem::create_directory(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const char* name) const { return path + "/" + name; }
};

struct SavedPart {
  Part part;
  const char* file;
};
constexpr SavedPart kParts[] = {{Part::Unet, "unet"}, {Part::UnetEma, "unet_ema"}, {Part::UnetMoments, "unet_moments"},
                                {Part::T5, "t5"},     {Part::T5Ema, "t5_ema"},     {Part::T5Moments, "t5_moments"}};

void train(Trainer& trainer, int first, int last) {
  for (int n = first; n <= last; n++) {
    trainer.accumulate(stage_two_batch(2 * n, 2, 2, true));
    CHECK(trainer.step({.step = n, .lr = 1e-3, .clip_norm = 1, .ema_decay = 0.9}).applied);
  }
}

const Registration files([](Suite& suite) {
  suite.add("trainer saves and restores bit for bit", [] {
    const Folder folder;
    const TrainerOptions options{.dtype = DType::BF16, .ema = true};
    Trainer trainer = loaded_trainer("tiny-if-II/unet", true, options);
    train(trainer, 1, 2);
    for (const SavedPart& p : kParts) trainer.save(folder.file(p.file), p.part, DType::F32, {{"step", "2"}});
    CHECK(SafetensorsFile::open(folder.file("t5_moments"))->metadata().at("step") == "2");
    Trainer fresh(golden_unet_config("tiny-if-II/unet"), golden_t5_config(), kCpu, options);
    Trainer used = loaded_trainer("tiny-if-II/unet", true, options);
    train(used, 7, 9);
    expect_error(ErrorCode::InvalidArgument, "no parameters",
                 [&] { fresh.restore(folder.file("unet_ema"), Part::UnetEma); });
    for (Trainer* t : {&fresh, &used}) {
      for (const Part part : {Part::Unet, Part::T5})
        t->restore(folder.file(part == Part::T5 ? "t5" : "unet"), part);
      for (const SavedPart& p : kParts) t->restore(folder.file(p.file), p.part);
    }
    for (Trainer* t : {&trainer, &fresh, &used}) train(*t, 3, 4);
    for (Trainer* t : {&fresh, &used})
      for (const auto state : {&TrainedModel::values, &TrainedModel::ema, &TrainedModel::moments,
                               &TrainedModel::squared_moments})
        check_same("state", states(*t, state), states(trainer, state));
  });

  suite.add("trainer files have the layout of diffusers", [] {
    const Folder folder;
    Trainer trainer = loaded_trainer("tiny-if-II/unet", true, {.dtype = DType::F32});
    trainer.save(folder.file("unet"), Part::Unet, DType::F16, {});
    trainer.save(folder.file("t5"), Part::T5, DType::F16, {});
    SafetensorsSource unet = golden_unet_source("tiny-if-II/unet"), t5 = golden_t5_source();
    for (SafetensorsSource* want : {&unet, &t5}) {
      SafetensorsSource got({folder.file(want == &unet ? "unet" : "t5")});
      CHECK(got.names().size() == want->names().size());
      for (const std::string& name : want->names())
        check_same(name.c_str(), {got.read(name)}, {want->read(name)});  // float16 files
    }
    trainer.save(folder.file("moments"), Part::UnetMoments, DType::F32, {});
    const auto moments = SafetensorsFile::open(folder.file("moments"));
    CHECK(moments->contains("conv_in.weight.exp_avg") && moments->contains("conv_in.weight.exp_avg_sq"));
    CHECK(moments->describe("conv_in.weight.exp_avg").shape == unet.describe("conv_in.weight").shape);
  });

  suite.add("trainer refuses what it cannot save or restore", [] {
    const Folder folder;
    Trainer trainer = loaded_trainer("tiny-if-I/unet", false, {.dtype = DType::F32});
    const std::string file = folder.file("x");
    const auto refused = [&](ErrorCode code, const char* part, const std::function<void()>& f) {
      expect_error(code, part, f);
      CHECK(std::filesystem::is_empty(folder.path));
    };
    refused(ErrorCode::InvalidArgument, "no averaged", [&] { trainer.save(file, Part::UnetEma, DType::F32, {}); });
    refused(ErrorCode::InvalidArgument, "not trained", [&] { trainer.save(file, Part::T5, DType::F32, {}); });
    refused(ErrorCode::InvalidArgument, "not trained", [&] { trainer.t5(DType::F32, false); });
    refused(ErrorCode::Io, "cannot create", [&] { trainer.save("/nonexistent/x", Part::Unet, DType::F32, {}); });
    const Tensor value = trainer.models()[0]->values[0];
    value.data<float>()[0] = 1e6f;
    refused(ErrorCode::Weights, "NaN or infinite values in f16", [&] { trainer.save(file, Part::Unet, DType::F16, {}); });
    value.data<float>()[0] = NAN;
    refused(ErrorCode::Weights, "NaN or infinite values in f32", [&] { trainer.save(file, Part::Unet, DType::F32, {}); });
    const std::string unet = golden_path("tiny-if-I/unet/diffusion_pytorch_model.safetensors");
    refused(ErrorCode::Weights, "not a file of moments", [&] { trainer.restore(unet, Part::UnetMoments); });
    refused(ErrorCode::Weights, "do not fit the config", [&] {
      trainer.restore(golden_path("tiny-if-II/unet/diffusion_pytorch_model.safetensors"), Part::Unet);
    });
    refused(ErrorCode::NotFound, "no such file", [&] { trainer.restore(file, Part::Unet); });
  });

  suite.add("trainer copies for sampling", [] {
    Trainer trainer = loaded_trainer("tiny-if-II/unet", true, {.dtype = DType::BF16, .ema = true});
    train(trainer, 1, 1);
    for (const bool ema : {false, true}) {
      const TrainedModel &unet = *trainer.models()[0], &t5 = *trainer.models()[1];
      for (const NamedTensor& t : trainer.unet(DType::F32, ema)->state_dict())
        check_same(t.name.c_str(), {t.tensor}, {unet.store->read_state(t.name, ema ? unet.ema : unet.values)});
      for (const NamedTensor& t : trainer.t5(DType::F32, ema)->state_dict())
        check_same(t.name.c_str(), {t.tensor}, {t5.store->read_state(t.name, ema ? t5.ema : t5.values)});
    }
    CHECK(!different_bits(trainer.models()[0]->ema[0], trainer.models()[0]->values[0]).empty());
  });
});

// ---- initial values

struct Moments {
  double mean = 0, deviation = 0, largest = 0;
};

Moments moments_of(const Tensor& t) {
  Moments m;
  const double n = double(t.numel());
  for (int64_t i = 0; i < t.numel(); i++) {
    const double v = t.data<float>()[i];
    m.mean += v / n;
    m.deviation += v * v / n;
    m.largest = std::max(m.largest, std::abs(v));
  }
  m.deviation = std::sqrt(m.deviation - m.mean * m.mean);
  return m;
}

// Mean and deviation of n numbers are within 5 standard errors (of the deviation: σ √(kurtosis - 1) / 2√n).
void check_distribution(const char* name, const Tensor& t, bool uniform, double size) {
  const Moments m = moments_of(t);
  const double deviation = uniform ? size / std::sqrt(3) : size, root = std::sqrt(double(t.numel()));
  const double spread = std::sqrt((uniform ? 1.8 : 3.0) - 1) / 2;
  const bool fits = std::abs(m.mean) <= 5 * deviation / root &&
                    std::abs(m.deviation - deviation) <= 5 * deviation * spread / root &&
                    (!uniform || (m.largest <= size * (1 + 1e-6) && m.largest >= 0.99 * size));
  if (!fits)
    fail_case("%s: mean %.3g, deviation %.3g, largest %.3g; expected %s %.3g", name, m.mean, m.deviation, m.largest,
              uniform ? "U(±…)," : "N(0, …²),", size);
}

const Registration initial([](Suite& suite) {
  suite.add("trainer initial values of diffusers and transformers", [] {
    Trainer a(golden_unet_config("tiny-if-II/unet"), golden_t5_config(), kCpu, {.dtype = DType::F32, .ema = true});
    a.initialise(11);
    const TrainedModel &unet = *a.models()[0], &t5 = *a.models()[1];
    const auto of = [](const TrainedModel& m, const char* name) { return m.store->read_state(name, m.values); };
    const auto uniform = [&](const char* name, double fan_in) {
      check_distribution(name, of(unet, name), true, 1 / std::sqrt(fan_in));
    };
    uniform("conv_in.weight", 6 * 9);
    uniform("mid_block.resnets.0.conv2.weight", 64 * 9);
    uniform("mid_block.resnets.0.time_emb_proj.weight", 64);
    uniform("mid_block.attentions.0.to_k.weight", 64);
    uniform("conv_out.weight", 32 * 9);
    CHECK(moments_of(of(unet, "conv_out.bias")).largest > 0);
    CHECK(moments_of(of(unet, "conv_out.bias")).largest <= 1 / std::sqrt(32 * 9.0));
    for (const char* name : {"conv_norm_out.weight", "mid_block.attentions.0.norm_cross.weight", "add_embedding.norm1.weight"}) {
      const Moments m = moments_of(of(unet, name));
      CHECK(m.mean == 1 && m.largest == 1);
    }
    CHECK(moments_of(of(unet, "mid_block.resnets.0.norm1.bias")).largest == 0);
    const auto normal = [&](const TrainedModel& m, const char* name, double deviation) {
      check_distribution(name, of(m, name), false, deviation);
    };
    normal(unet, "add_embedding.pool.positional_embedding", 1 / std::sqrt(64));
    normal(t5, "shared.weight", 1);
    normal(t5, "encoder.block.1.layer.0.SelfAttention.q.weight", 1 / std::sqrt(64.0 * 16));
    normal(t5, "encoder.block.1.layer.0.SelfAttention.v.weight", 1 / std::sqrt(64));
    normal(t5, "encoder.block.1.layer.0.SelfAttention.o.weight", 1 / std::sqrt(6.0 * 16));
    normal(t5, "encoder.block.1.layer.1.DenseReluDense.wi_1.weight", 1 / std::sqrt(64));
    normal(t5, "encoder.block.1.layer.1.DenseReluDense.wo.weight", 1 / std::sqrt(96));
    normal(t5, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 1 / std::sqrt(64));
    CHECK(moments_of(of(t5, "encoder.final_layer_norm.weight")).mean == 1);

    Trainer b(golden_unet_config("tiny-if-II/unet"), golden_t5_config(), kCpu, {.dtype = DType::BF16, .ema = false});
    b.initialise(11);
    check_same("the same seed", states(b, &TrainedModel::values), states(a, &TrainedModel::values));
    check_same("ema", states(a, &TrainedModel::ema), states(a, &TrainedModel::values));
    b.initialise(12);
    CHECK(!different_bits(b.models()[0]->values[0], a.models()[0]->values[0]).empty());
  });
});

// ---- what else may happen

const Registration behaviour([](Suite& suite) {
  suite.add("trainer evaluates the loss that it trains on", [] {
    Trainer trainer = loaded_trainer("tiny-if-II/unet", true, {.dtype = DType::BF16, .ema = true});
    const MicroBatch batch = stage_two_batch(0, 2, 2, true);
    const size_t before = memory_stats(kCpu).current;
    const Tensor terms = trainer.evaluate(batch, false);
    CHECK(memory_stats(kCpu).current == before + terms.storage()->bytes);
    CHECK(all_zero(states(trainer, &TrainedModel::gradients)));
    check_same("terms", {trainer.accumulate(batch)}, {terms});
    CHECK(!all_zero(states(trainer, &TrainedModel::gradients)));
    check_same("averaged", {trainer.evaluate(batch, true)}, {terms});  // nothing has changed yet
    trainer.step({.step = 1, .lr = 1e-2, .clip_norm = 1, .ema_decay = 0.5});
    const Tensor changed = trainer.evaluate(batch, false), averaged = trainer.evaluate(batch, true);
    CHECK(!different_bits(changed, terms).empty() && !different_bits(averaged, changed).empty());
    check_same("values are back", {trainer.evaluate(batch, false)}, {changed});
  });

  suite.add("trainer accumulates micro-batches", [] {
    Trainer trainer = loaded_trainer("tiny-if-I/unet", false, {.dtype = DType::F32});
    MicroBatch batch = stage_two_batch(0, 2, 2, false);
    batch.low_res = {};
    trainer.accumulate(batch);
    std::vector<Tensor> twice;
    for (const Tensor& g : states(trainer, &TrainedModel::gradients)) twice.push_back(ops::axpby(2, g, 0, g));
    trainer.accumulate(batch);
    check_same("gradients", states(trainer, &TrainedModel::gradients), twice);  // g + g is exact
  });

  suite.add("trainer leaves everything when the norm is beyond the limit or not finite", [] {
    Trainer trainer = loaded_trainer("tiny-if-I/unet", false, {.dtype = DType::F32, .ema = true});
    MicroBatch batch = stage_two_batch(0, 2, 2, false);
    batch.low_res = {};
    std::vector<Tensor> before;
    for (const Tensor& v : states(trainer, &TrainedModel::values)) before.push_back(ops::copy(v, DType::F32));
    for (const bool finite : {true, false}) {
      if (!finite) batch.samples[1].loss.weight = INFINITY;
      trainer.accumulate(batch);
      const OptimizerResult r = trainer.step({.step = 1, .lr = 1e-3, .norm_limit = finite ? 1e-6 : 0});
      CHECK(!r.applied && std::isfinite(r.gradient_norm) == finite && r.gradient_norm != 0);
      CHECK(all_zero(states(trainer, &TrainedModel::gradients)) && all_zero(states(trainer, &TrainedModel::moments)));
      check_same("values", states(trainer, &TrainedModel::values), before);
      check_same("ema", states(trainer, &TrainedModel::ema), before);
    }
  });

  suite.add("trainer cancelled at any op goes on", [] {
    Trainer trainer = loaded_trainer("tiny-if-I/unet", false, {.dtype = DType::F32, .checkpointing = true});
    MicroBatch batch = stage_two_batch(0, 2, 2, false);
    batch.low_res = {};
    trainer.accumulate(batch);
    std::vector<Tensor> want;
    for (const Tensor& g : states(trainer, &TrainedModel::gradients)) want.push_back(ops::copy(g, DType::F32));
    trainer.step({.step = 1, .norm_limit = 1e-12});  // gradients are zero again
    const size_t before = memory_stats(kCpu).current;
    ThreadPool pool(1);
    std::atomic<bool> cancelled{false};
    Execution execution;
    execution.pool = &pool;
    execution.cancelled = &cancelled;
    ExecutionScope scope(execution);
    for (const int milliseconds : {1, 5, 20}) {
      cancelled = false;
      std::thread timer([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
        cancelled = true;
      });
      // until it is cancelled, which is soon
      expect_error(ErrorCode::Cancelled, "cancelled", [&] {
        for (int i = 0; i < 100000; i++) trainer.accumulate(batch);
      });
      timer.join();
      CHECK(all_zero(states(trainer, &TrainedModel::gradients)));
      CHECK(memory_stats(kCpu).current == before);
    }
    cancelled = false;
    trainer.accumulate(batch);
    check_same("gradients", states(trainer, &TrainedModel::gradients), want);
  });

  suite.add("trainer without parameters, and wrong batches", [] {
    Trainer trainer(golden_unet_config("tiny-if-II/unet"), std::nullopt, kCpu, {.dtype = DType::F32});
    const MicroBatch good = stage_two_batch(0, 2, 2, false);
    const auto refused = [&](const char* part, const MicroBatch& b) {
      expect_error(ErrorCode::InvalidArgument, part, [&] { trainer.accumulate(b); });
    };
    refused("no parameters", good);
    expect_error(ErrorCode::InvalidArgument, "no parameters", [&] { trainer.step({}); });
    SafetensorsSource wrong = golden_unet_source("tiny-if-I/unet"), right = golden_unet_source("tiny-if-II/unet"),
                      t5 = golden_t5_source();
    expect_error(ErrorCode::Weights, "do not fit", [&] { trainer.load(wrong, nullptr); });
    refused("no parameters", good);
    expect_error(ErrorCode::InvalidArgument, "must not be given", [&] { trainer.load(right, &t5); });
    trainer.load(right, nullptr);
    trainer.accumulate(good);
    MicroBatch b = good;
    b.low_res = {};
    refused("low_res must be (2, h, w, 3) f32, got none", b);
    b = good;
    b.samples.pop_back();
    refused("images must be (1 samples, H, W, 3) f32, got (2, 16, 16, 3)", b);
    b = stage_two_batch(0, 2, 2, true);
    refused("text must be (2, T, 64), got none", b);
    b = good;
    b.text = sample_numbers(0, 0, {2, 3, 65});
    refused("text must be (batch, tokens, 64)", b);
    b = good;
    b.text = on(b.text, {DeviceType::Cpu, 1});
    refused("a batch must be on cpu:0, got cpu:1", b);
    T5Config narrow = golden_t5_config();
    narrow.d_model = 32;
    expect_error(ErrorCode::InvalidArgument, "a width of 64, got 32",
                 [&] { Trainer(golden_unet_config("tiny-if-I/unet"), narrow, kCpu, {}); });
  });

  suite.add("trainer plan is what a micro-batch takes", [] {
    const UNetConfig config = golden_unet_config("tiny-if-II/unet");
    for (const bool checkpointing : {false, true}) {
      const TrainerOptions options{.dtype = DType::BF16, .precision = Precision::Exact, .checkpointing = checkpointing, .ema = true};
      const MemoryPlan plan = plan_trainer(config, golden_t5_config(), options, 2, 64, 64, 6);
      const size_t start = memory_stats(kCpu).current;
      Trainer trainer = loaded_trainer("tiny-if-II/unet", true, options);
      CHECK(plan.weight_bytes == trainer.bytes());
      MicroBatch batch = stage_two_batch(0, 2, 2, true);
      batch.images = sample_numbers(100, 0, {2, 64, 64, 3});
      batch.low_res = sample_numbers(101, 0, {2, 16, 16, 3});
      const size_t inputs = batch.images.bytes() + batch.low_res.bytes() + batch.ids.bytes() + batch.mask.bytes();
      const size_t before = memory_stats(kCpu).current;
      CHECK(double(before - start) <= 1.1 * double(plan.weight_bytes + inputs));  // small blocks are rounded up
      reset_peak(kCpu);
      WorkCounter work;
      Execution execution;
      execution.work = &work;
      ExecutionScope scope(execution);
      trainer.accumulate(batch);
      const double took = double(memory_stats(kCpu).peak - before + inputs), planned = double(plan.activation_bytes);
      if (!(took <= 1.02 * planned && took >= 0.95 * planned)) fail_case("planned %.0f bytes, took %.0f", planned, took);
      CHECK(work.flops == plan.flops);
    }
  });
});

}  // namespace
}  // namespace df::test
