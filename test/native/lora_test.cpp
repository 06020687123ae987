// LoRA: against PEFT (test/golden/training/lora_*, tolerances as in test/golden/README.md), finite differences, merging,
// dropout, and its trainer.
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "compare.h"
#include "core/philox.h"
#include "golden_models.h"
#include "harness.h"
#include "nn/lora.h"
#include "ops/ops.h"
#include "tensors.h"
#include "training/trainer.h"

namespace df::test {
namespace {

using Part = Trainer::Part;

const std::vector<std::string> kTargets{"to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"};
const std::string kPrefix = "base_model.model.";
constexpr const char* kFolder = "tiny-if-I/unet";

Tensor numbers(Random& random, const Shape& shape) {
  return ops::copy(random_tensor(random, shape, DType::F32, Layout::Dense), DType::F32);
}

Tensor random_like(const Shape& shape) {
  Random random(shape.str());
  return numbers(random, shape);
}

LoraOptions golden_options(double alpha = 8, double dropout = 0) {
  return {.rank = 4, .alpha = alpha, .dropout = dropout, .targets = kTargets};
}

std::map<std::string, Tensor> golden_factors() {
  std::map<std::string, Tensor> all;
  const auto file = golden("training/lora_peft/adapter_model");
  for (const std::string& name : file->names()) all[name.substr(kPrefix.size())] = file->tensor(name);
  return all;
}

std::vector<LoraProduct> golden_products(float scale) {
  std::vector<LoraProduct> all;
  const auto factors = golden_factors();
  for (const auto& [name, down] : factors) {
    const size_t at = name.find(".lora_A.weight");
    if (at == std::string::npos) continue;
    const std::string module = name.substr(0, at);
    all.push_back({module, {down, factors.at(module + ".lora_B.weight"), scale}});
  }
  return all;
}

// The recorded network with the recorded factors beside it, or random ones.
struct Adapted {
  UNet unet;
  Lora lora;
  explicit Adapted(DType dtype, const LoraOptions& options = golden_options(), Precision precision = Precision::Default)
      : unet(golden_unet_config(kFolder), dtype, kCpu, precision), lora(unet, options, 1 << 16) {
    SafetensorsSource base = golden_unet_source(kFolder);
    unet.load(base);
    TensorMapSource factors(golden_factors());
    lora.store().load(factors, {});
  }
  Tensor forward() const { return run_golden_unet(unet, *golden("training/lora_io")); }
  std::map<std::string, Tensor> gradients() {
    const auto io = golden("training/lora_io");
    Tape tape;
    const WatchedGradients gradients(lora.store(), tape);
    Tensor out;
    {
      RecordScope scope(&tape);
      out = run_golden_unet(unet, *io);
    }
    const Tensor weight = ops::nchw_to_nhwc(io->tensor("loss_weight"), DType::F32);
    tape.backward(out, ops::copy(ops::axpby(float(1 / double(weight.numel())), weight, 0, weight), unet.dtype()));
    return gradients.in_file_layout();
  }
};

double bf16_tolerance() { return kBfloat16 * golden_json("bf16_error.json").find("unet_stage1")->number(); }

Tensor nchw(const Tensor& t) { return ops::nhwc_to_nchw(ops::copy(t, DType::F32)); }

Tensor run(const std::function<void(UNet&)>& load, DType dtype) {
  UNet unet(golden_unet_config(kFolder), dtype, kCpu);
  load(unet);
  return run_golden_unet(unet, *golden("training/lora_io"));
}

Tensor run_merged(const std::vector<LoraProduct>& products, DType dtype) {
  return run([&](UNet& unet) {
    SafetensorsSource base = golden_unet_source(kFolder);
    MergedSource merged(base, products);
    unet.load(merged);
  }, dtype);
}

const Registration golden_lora([](Suite& suite) {
  for (const Precision precision : {Precision::Exact, Precision::Default})
    suite.add(format("lora forward and gradients of PEFT, %s", name_of(precision)), [precision] {
      Adapted adapted(DType::F32, golden_options(), precision);
      check_close("out", nchw(adapted.forward()), golden("training/lora_io")->tensor("out"), 1e-5);
      const auto want = golden("training/lora_grads");
      const auto got = adapted.gradients();
      CHECK(got.size() == want->names().size() && got.size() == 84);
      for (const auto& [name, gradient] : got) {
        std::string recorded = kPrefix + name;
        recorded.insert(recorded.size() - std::string("weight").size(), "default.");
        check_close(name, gradient, want->tensor(recorded), 1e-4);
      }
    });

  suite.add("lora in bf16, beside the weights and merged", [] {
    const Tensor want = golden("training/lora_io")->tensor("out");
    check_close("beside", nchw(Adapted(DType::BF16).forward()), want, bf16_tolerance());
    check_close("merged", nchw(run_merged(golden_products(2), DType::BF16)), want, bf16_tolerance());
  });

  suite.add("lora merged is lora beside the weights", [] {
    const Adapted adapted(DType::F32);
    const Tensor want = nchw(adapted.forward());
    check_close("source", nchw(run_merged(golden_products(2), DType::F32)), want, 1e-5);
    check_close("halves", nchw(run_merged([] {
                  auto all = golden_products(0.5), rest = golden_products(1.5);
                  all.insert(all.end(), rest.begin(), rest.end());
                  return all;
                }(), DType::F32)), want, 1e-5);
    const Tensor shared = run([&](UNet& unet) { unet.store().load_merged(adapted.unet.store()); }, DType::F32);
    check_close("load_merged", nchw(shared), want, 1e-5);
  });

  suite.add("lora with scale 0 is the base, bit for bit", [] {
    const Tensor base = run([](UNet& unet) {
      SafetensorsSource source = golden_unet_source(kFolder);
      unet.load(source);
    }, DType::BF16);
    CHECK(different_bits(run_merged(golden_products(0), DType::BF16), base).empty());
    CHECK(different_bits(Adapted(DType::BF16, golden_options(0)).forward(), base).empty());
    CHECK(!different_bits(run_merged(golden_products(1), DType::BF16), base).empty());
  });

  suite.add("lora merged and taken out again is the base within rounding", [] {
    SafetensorsSource base = golden_unet_source(kFolder);
    const auto products = golden_products(2);
    MergedSource merged(base, products), again(merged, golden_products(-2));
    size_t changed = 0;
    for (const LoraProduct& p : products) {
      const Tensor w = ops::copy(base.read(p.module + ".weight"), DType::F32);
      const Tensor got = again.read(p.module + ".weight"), with = merged.read(p.module + ".weight");
      const int64_t rank = p.factors.down.dim(0), in = w.dim(1);
      changed += !different_bits(with, w).empty();
      for (int64_t i = 0; i < w.numel(); i++) {
        double product = 0, size = 0;  // the dot product, and of absolute values
        for (int64_t r = 0; r < rank; r++) {
          const double up = p.factors.up.data<float>()[i / in * rank + r];
          const double term = 2 * up * p.factors.down.data<float>()[r * in + i % in];
          product += term;
          size += std::abs(term);
        }
        const double u = std::pow(2, -24), value = w.data<float>()[i];
        // scaled factors, rank products and sums, and the last addition are rounded, in both directions
        const double bound = 2 * u * (double(rank + 2) * size + std::abs(value) + std::abs(value + product));
        const double here = std::abs(with.data<float>()[i] - (value + product));
        if (!(here <= bound)) fail_case("%s: merged: error %.3g, allowed %.3g", p.module.c_str(), here, bound);
        const double error = std::abs(got.data<float>()[i] - value);
        if (!(error <= bound)) fail_case("%s: error %.3g, allowed %.3g", p.module.c_str(), error, bound);
      }
    }
    CHECK(changed == products.size());
  });

  suite.add("lora refuses what does not fit", [] {
    const auto refused = [](const char* part, const LoraOptions& o) {
      expect_error(ErrorCode::InvalidArgument, part, [&] { Adapted adapted(DType::F32, o); });
    };
    LoraOptions o = golden_options();
    o.rank = 0;
    refused("rank must be from 1 to 65536, got 0", o);
    o = golden_options();
    o.targets.push_back("out_q");  // of to_q, an end that does not begin after a dot
    refused("no linear layer of the model is called or ends in: out_q", o);
    o = golden_options(8, 1);
    refused("dropout must be at least 0 and less than 1, got 1", o);
    SafetensorsSource base = golden_unet_source(kFolder);
    auto products = golden_products(1);
    products[0].module = "mid_block.attentions.7.to_q";
    products[1].factors.up = Tensor::zeros({3, 4}, DType::F32, kCpu);
    expect_error(ErrorCode::Weights, "2 module(s) do not fit the model: mid_block.attentions.7.to_q (no such layer), ",
                 [&] { MergedSource merged(base, products); });
  });
});

// ---- one fused layer: linear in its input and in each factor, so that differences have no error but rounding

struct FusedLayer {
  ParameterStore store{"layer", DType::F32, kCpu}, factors{"lora", DType::F32, kCpu, {.trainable = true}};
  Linear layer{store, {"q", "k", "v"}, 20, 12};
  LoraDropout dropout{.probability = 0.3f, .seed = 5, .samples = {40, 41, 42}};
  explicit FusedLayer(Random& random) {
    for (const char* name : {"q", "v"}) {  // k has none
      LoraTerm term;
      term.down = factors.weight({std::string(name) + ".lora_A.weight"}, {3, 20});
      term.up = factors.weight({std::string(name) + ".lora_B.weight"}, {12, 3});
      term.scale = 0.7f;
      term.dropout = &dropout;
      term.stream = name[0];
      store.add_lora(name, term);
    }
    for (ParameterStore* s : {&store, &factors}) {
      std::map<std::string, Tensor> values;
      for (const TensorInfo& info : s->infos()) values[info.name] = numbers(random, info.shape);
      TensorMapSource source(values);
      s->load(source, {});
    }
  }
};

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); i++) sum += double(a.data<float>()[i]) * b.data<float>()[i];
  return sum;
}

const Registration differences([](Suite& suite) {
  suite.add("lora result of a fused layer with dropout and residual, term by term", [] {
    Random random("lora result");
    FusedLayer f(random);
    const Tensor x = numbers(random, {3, 5, 20}), residual = numbers(random, {3, 5, 36});
    const Tensor y = f.layer.forward(x, residual);
    const std::vector<Tensor> factors = f.factors.values();  // of q, then of v
    const auto at = [](const Tensor& t, int64_t i, int64_t j) { return double(t.data<float>()[i * t.dim(-1) + j]); };
    for (int64_t part = 0; part < 3; part++) {
      const std::string name = std::string(1, "qkv"[part]);
      const Tensor w = f.store.read(name + ".weight"), b = f.store.read(name + ".bias");
      const Tensor mask = dropout_mask(x.shape(), DType::F32, kCpu, f.dropout, uint32_t(name[0]));
      for (int64_t row = 0; row < 15; row++)
        for (int64_t o = 0; o < 12; o++) {
          double want = at(residual, row, part * 12 + o) + b.data<float>()[o], size = std::abs(want);
          const auto add = [&](double term) { want += term, size += std::abs(term); };
          for (int64_t i = 0; i < 20; i++) {
            add(at(x, row, i) * at(w, o, i));
            for (int64_t r = 0; r < 3 && part != 1; r++)  // 0.7 / (1 - 0.3)
              add(at(mask, row, i) * at(x, row, i) * at(factors[size_t(part)], r, i) * at(factors[size_t(part + 1)], o, r));
          }
          const double error = std::abs(at(y, row, part * 12 + o) - want), allowed = 64 * std::pow(2, -24) * size;
          if (!(error <= allowed)) fail_case("%s: error %.3g, allowed %.3g", name.c_str(), error, allowed);
        }
    }
  });

  suite.add("lora gradients of a fused layer with dropout and residual, by differences", [] {
    Random random("lora");
    FusedLayer f(random);
    std::vector<Tensor> inputs = f.factors.values();
    inputs.push_back(numbers(random, {3, 5, 20}));
    inputs.push_back(numbers(random, {3, 5, 36}));
    const Tensor x = inputs[4], residual = inputs[5], dy = numbers(random, {3, 5, 36});
    Tape tape;
    const WatchedGradients gradients(f.factors, tape);
    tape.require(x);
    tape.require(residual);
    Tensor y;
    {
      RecordScope scope(&tape);
      y = f.layer.forward(x, residual);
    }
    double size = 0;
    for (int64_t i = 0; i < y.numel(); i++) size += std::abs(double(y.data<float>()[i]) * dy.data<float>()[i]);
    tape.backward(y, ops::copy(dy, DType::F32));
    std::vector<Tensor> analytic = gradients.state();
    analytic.push_back(tape.gradient_of(x));
    analytic.push_back(tape.gradient_of(residual));
    for (size_t i = 0; i < inputs.size(); i++) {
      const Tensor direction = numbers(random, inputs[i].shape()), before = ops::copy(inputs[i], DType::F32);
      const auto loss = [&](float h) {
        ops::copy(ops::axpby(1, before, h, direction), DType::F32, inputs[i]);
        return dot(f.layer.forward(x, residual), dy);
      };
      const double difference = (loss(1) - loss(-1)) / 2, want = dot(analytic[i], direction);
      ops::copy(before, DType::F32, inputs[i]);
      const double allowed = 64 * std::pow(2, -24) * size;  // 20 + 3 products and sums, and what the step adds
      if (!(std::abs(difference - want) <= allowed) || !(std::abs(want) > 100 * allowed))
        fail_case("input %zu: %.9g by differences, %.9g by the tape, allowed error %.3g", i, difference, want, allowed);
    }
  });

  suite.add("lora checkpoints before the first factors record nothing", [] {
    Random random("checkpoint");
    FusedLayer f(random);
    const Tensor x = numbers(random, {3, 5, 20});
    Tape tape;
    const WatchedGradients gradients(f.factors, tape);
    RecordScope scope(&tape);
    const Tensor h = checkpoint({}, [x](const Tensor&) { return ops::activation(x, Activation::Silu); });
    CHECK(tape.size() == 0 && !tape.needs(h));
    const Tensor y = checkpoint({}, [&f, h](const Tensor&) { return f.layer.forward(h); });
    CHECK(tape.size() == 1 && tape.needs(y));
    const Tensor z = checkpoint({}, [y](const Tensor&) { return ops::activation(y, Activation::Silu); });
    CHECK(tape.size() == 2 && tape.needs(z));
  });

  suite.add("lora dropout masks are of the sample", [] {
    const LoraDropout d{.probability = 0.25f, .seed = 9, .samples = {3, 4, 5, 6}};
    const Tensor four = dropout_mask({4, 100, 200}, DType::BF16, kCpu, d, 70000);
    const LoraDropout last{.probability = 0.25f, .seed = 9, .samples = {5, 6}};
    CHECK(different_bits(four.slice_first(2, 2), dropout_mask({2, 100, 200}, DType::BF16, kCpu, last, 70000)).empty());
    CHECK(!different_bits(four, dropout_mask({4, 100, 200}, DType::BF16, kCpu, d, 70001)).empty());
    const Tensor values = ops::copy(four, DType::F32);
    double ones = 0;
    for (int64_t i = 0; i < values.numel(); i++) ones += values.data<float>()[i];
    // five standard deviations of a binomial distribution
    CHECK(std::abs(ones / 80000 - 0.75) <= 5 * std::sqrt(0.75 * 0.25 / 80000));
  });

  suite.add("lora gradients with dropout are the same with checkpoints", [] {
    const auto gradients = [](bool checkpointing, double dropout) {
      Adapted adapted(DType::BF16, golden_options(8, dropout));
      adapted.unet.set_checkpointing(checkpointing);
      adapted.lora.begin_dropout(1, {11, 12});
      return adapted.gradients();
    };
    const auto plain = gradients(false, 0.2), again = gradients(true, 0.2), without = gradients(true, 0);
    size_t differ = 0;
    for (const auto& [name, t] : plain) {
      CHECK(different_bits(t, again.at(name)).empty());
      differ += !different_bits(t, without.at(name)).empty();
    }
    CHECK(differ == plain.size());
  });
});

// ---- the trainer

MicroBatch batch(int64_t first, int64_t items) {
  MicroBatch b;
  const auto drawn = [&](uint32_t purpose, const Shape& shape) {
    const Tensor t = Tensor::empty(shape, DType::F32, kCpu);
    const int64_t n = t.numel() / items;
    for (int64_t i = 0; i < items; i++) Philox(1, purpose, uint64_t(first + i)).uniform(t.data<float>() + i * n, n);
    return t;
  };
  b.images = drawn(100, {items, 16, 16, 3});
  std::vector<int32_t> ids, mask;
  for (int64_t i = 0; i < items * 6; i++) ids.push_back(int32_t((first * 6 + i) * 13 % 2000)), mask.push_back(1);
  b.ids = ints({items, 6}, ids);
  b.mask = ints({items, 6}, mask);
  for (int64_t i = 0; i < items; i++)
    b.samples.push_back({.index = uint64_t(first + i), .timestep = float((first + i) * 211 % 1000), .image_scale = 0.8f,
                         .noise_scale = 0.6f, .loss = {}});
  b.seed = 3;
  b.gradient_scale = 0.25f;
  return b;
}

Trainer lora_trainer(DType dtype = DType::F32, bool checkpointing = true) {
  const TrainedLora lora{.rank = 3, .alpha = 6, .dropout = 0.1};
  TrainerOptions options{.dtype = dtype, .precision = Precision::Default, .checkpointing = checkpointing, .ema = true, .lora = lora};
  Trainer trainer(golden_unet_config(kFolder), golden_t5_config(), kCpu, options);
  SafetensorsSource unet = golden_unet_source(kFolder), t5 = golden_t5_source();
  trainer.load(unet, &t5, {}, 17);
  return trainer;
}

void steps(Trainer& trainer, int from, int to) {
  for (int i = from; i < to; i++) {
    trainer.accumulate(batch(4 * i, 2));
    trainer.accumulate(batch(4 * i + 2, 2));
    CHECK(trainer.step({.step = i + 1, .lr = 1e-2, .clip_norm = 1, .ema_decay = 0.5}).applied);
  }
}

void check_same(Trainer& a, Trainer& b) {
  for (size_t m = 0; m < 2; m++) {
    const TrainedModel &x = *a.models()[m], &y = *b.models()[m];
    for (const auto state : {&TrainedModel::values, &TrainedModel::gradients, &TrainedModel::moments,
                             &TrainedModel::squared_moments, &TrainedModel::ema}) {
      CHECK((x.*state).size() == (y.*state).size() && !(x.*state).empty());
      for (size_t i = 0; i < (x.*state).size(); i++) CHECK(different_bits((x.*state)[i], (y.*state)[i]).empty());
    }
  }
}

const Registration trainers([](Suite& suite) {
  suite.add("lora trainer begins as the base, and resumes bit for bit", [] {
    Trainer trainer = lora_trainer();
    CHECK(trainer.parameter_count() < 60000);
    steps(trainer, 0, 2);
    const std::string folder = (std::filesystem::temp_directory_path() / format("if-lora-%d", int(getpid()))).string();
    std::filesystem::create_directories(folder);
    const std::pair<const char*, Part> parts[] = {
        {"unet", Part::Unet},    {"t5", Part::T5}, {"unet_moments", Part::UnetMoments}, {"t5_moments", Part::T5Moments},
        {"unet_ema", Part::UnetEma}, {"t5_ema", Part::T5Ema}};
    for (const auto& [name, part] : parts) trainer.save(folder + "/" + name, part, DType::F32, {});
    Trainer resumed = lora_trainer();
    for (const auto& [name, part] : parts) resumed.restore(folder + "/" + name, part);
    check_same(trainer, resumed);
    steps(trainer, 2, 4);
    steps(resumed, 2, 4);
    check_same(trainer, resumed);
    TrainerOptions options{.dtype = DType::F32, .ema = true, .lora = TrainedLora{.rank = 3}};
    Trainer empty(golden_unet_config(kFolder), golden_t5_config(), kCpu, options);
    expect_error(ErrorCode::InvalidArgument, "call load first", [&] { empty.restore(folder + "/unet", Part::Unet); });
    std::filesystem::remove_all(folder);
  });

  suite.add("lora replicas of two add up to four", [] {
    Trainer one = lora_trainer(), a = lora_trainer(DType::F32, false), b = lora_trainer();
    one.accumulate(batch(0, 4));
    a.accumulate(batch(0, 2));
    b.accumulate(batch(2, 2));
    reduce_gradients({&a, &b});
    for (Trainer* t : {&one, &a, &b}) t->step({.step = 1, .lr = 1e-2, .ema_decay = 0.5});
    check_same(one, a);
    check_same(one, b);
  });

  suite.add("lora trainer gives copies with its products", [] {
    Trainer trainer = lora_trainer();
    const auto text = random_like({1, 6, 64});
    const auto forward = [&](bool ema) {
      const auto unet = trainer.unet(DType::F32, ema);
      return unet->forward(random_like({1, 16, 16, 3}), tensor_of({1}, {500}), unet->prepare(text));
    };
    const auto base = run([](UNet& unet) {
      SafetensorsSource source = golden_unet_source(kFolder);
      unet.load(source);
    }, DType::F32);
    const auto copy = trainer.unet(DType::F32, false);
    CHECK(different_bits(run_golden_unet(*copy, *golden("training/lora_io")), base).empty());  // the upper factors are 0
    CHECK(copy->store().version() != trainer.unet(DType::F32, false)->store().version());  // what was recorded is of one
    steps(trainer, 0, 3);
    const Tensor last = forward(false), ema = forward(true);
    CHECK(!different_bits(last, ema).empty());
    CHECK(different_bits(last, forward(false)).empty());
    UNet merged(golden_unet_config(kFolder), DType::F32, kCpu);
    SafetensorsSource source = golden_unet_source(kFolder);
    const TrainedModel& model = *trainer.models()[0];
    std::vector<LoraProduct> products;
    for (const TensorInfo& info : model.store->infos())
      if (const size_t at = info.name.find(".lora_A.weight"); at != std::string::npos)
        products.push_back({info.name.substr(0, at), {model.store->read_state(info.name, model.values),
                            model.store->read_state(info.name.substr(0, at) + ".lora_B.weight", model.values), 2}});
    MergedSource with(source, products);
    merged.load(with);
    check_close("copy", last, merged.forward(random_like({1, 16, 16, 3}), tensor_of({1}, {500}), merged.prepare(text)), 1e-6);
    CHECK(trainer.t5(DType::F32, true) != nullptr);
    expect_error(ErrorCode::InvalidArgument, "a copy with LoRA must be f32", [&] { trainer.unet(DType::BF16, false); });
  });

  suite.add("lora plan has neither masters nor weight gradients", [] {
    TrainerOptions options{.dtype = DType::BF16, .precision = Precision::Default, .checkpointing = true, .ema = true};
    const auto plan = [&] { return plan_trainer(golden_unet_config(kFolder), std::nullopt, options, 1, 64, 64, 8); };
    const MemoryPlan full = plan();
    options.lora = TrainedLora{.rank = 1};
    const MemoryPlan lora = plan();
    CHECK(lora.weight_bytes < full.weight_bytes / 4);
    CHECK(lora.flops < 0.8 * full.flops);
  });
});

}  // namespace
}  // namespace df::test
