// UNet and T5 encoder against the recorded results of diffusers and transformers (test/golden/README.md: float32 within
// 1e-5 relative, bfloat16 within 1.25 × the error of torch's own bfloat16). UNets are run with direct convolutions
// (exact) and with the default ones, which double the error of float32 at most and are held to the same tolerances; the
// fast ones raise the error of a bfloat16 convolution from 2.9e-3 to at most 1.2e-2 (winograd_test.cpp).
#include <cmath>
#include <set>

#include "device_case.h"
#include "golden_models.h"
#include "harness.h"
#include "nn/denoise.h"
#include "op_case.h"
#include "ops/backend.h"
#include "ops/ops.h"
#include "tensors.h"

namespace df::test {
namespace {

constexpr double kTolerance = 1e-5;

// Modules that exist in diffusers but are fused into their neighbours here.
bool is_fused(const std::string& module) {
  static const std::set<std::string> fused{"conv_norm_out", "time_proj", "encoder_hid_proj"};
  const auto has = [&](const char* part) { return module.find(part) != std::string::npos; };
  return fused.count(module) || has(".linear_") || has("add_embedding.") || has("embedding.act");
}

// Records are named MODULE or MODULE@K, the latter flatten(output)[::K].
void check_activation(const std::string& module, const Tensor& nhwc, const SafetensorsFile& acts) {
  Tensor got = ops::copy(nhwc, DType::F32);
  if (got.shape().rank() == 4) got = ops::nhwc_to_nchw(got);
  for (const std::string& name : acts.names()) {
    const Record record = parse_record(name);
    if (record.name == module) return check_close(name, thinned(got, record), acts.tensor(name), kTolerance);
  }
}

const Registration gate([](Suite& suite) {
  suite.add("check_close accepts and refuses", [] {
    const Tensor want = tensor_of({4}, {3, 0, -4, 0});  // of norm 5
    const auto accepted = [&](const Tensor& got) { return not_close(got, want, 0.1).empty(); };
    for (const double sign : {-1, 1}) {
      CHECK(accepted(tensor_of({4}, {3, sign * 0.499, -4, 0})));
      CHECK(!accepted(tensor_of({4}, {3, sign * 0.501, -4, 0})));
      CHECK(!accepted(tensor_of({4}, {3, sign * INFINITY, -4, 0})));
    }
    CHECK(!accepted(tensor_of({4}, {3, NAN, -4, 0})));
    CHECK(!accepted(want.reshape({2, 2})));
    CHECK(!not_close(tensor_of({1}, {1}), tensor_of({1}, {0}), 0.1).empty());
  });
});

void add_golden_unet(Suite& suite, const GoldenUNet& g, Precision precision) {
  const char* mode = name_of(precision);
  suite.add(format("%s f32 %s", g.name, mode), [=] {
    UNet unet(golden_unet_config(g.folder), DType::F32, kCpu, precision);
    SafetensorsSource source = golden_unet_source(g.folder);
    unet.load(source);
    const auto io = golden(std::string(g.name) + "_io"), acts = golden(std::string(g.name) + "_acts");
    std::set<std::string> seen;
    const Tensor out = run_golden_unet(unet, *io, [&](const std::string& module, const Tensor& nhwc) {
      seen.insert(module);
      check_activation(module, nhwc, *acts);
    });
    for (const std::string& name : acts->names()) {
      const std::string module = name.substr(0, name.find('@'));
      if (!seen.count(module) && !is_fused(module)) fail_case("no output of %s was seen", module.c_str());
    }
    check_close("out", ops::nhwc_to_nchw(out), io->tensor("out"), kTolerance);
  });
  suite.add(format("%s bf16 %s", g.name, mode), [=] {
    UNet unet(golden_unet_config(g.folder), DType::BF16, kCpu, precision);
    SafetensorsSource source = golden_unet_source(g.folder);
    unet.load(source);
    const auto io = golden(std::string(g.name) + "_io");
    const double torch_error = golden_json("bf16_error.json").find(g.name)->number();
    check_close("out", ops::nhwc_to_nchw(run_golden_unet(unet, *io)), io->tensor("out"), kBfloat16 * torch_error * (precision == Precision::Fast ? kFast : 1));
  });
}

const Registration unets([](Suite& suite) {
  for (const Precision precision : {Precision::Exact, Precision::Default, Precision::Fast}) {
    for (const GoldenUNet& g : kGoldenUNets) add_golden_unet(suite, g, precision);
    suite.add(format("unet_wide f32 %s", name_of(precision)), [precision] {
      UNet unet(wide_config(), DType::F32, kCpu, precision);
      TensorMapSource source = wide_source();
      unet.load(source);
      const auto io = golden("wide_io");
      check_close("out", ops::nhwc_to_nchw(run_golden_unet(unet, *io)), io->tensor("out"), kTolerance);
    });
  }

  suite.add("unet plan counts the scratch of winograd convolutions", [] {
    const UNetConfig config = golden_unet_config("tiny-if-I/unet");
    const auto plan = [&](Precision precision) {
      return plan_unet(config, DType::F32, 1, 64, 64, 8, true, precision);
    };
    const MemoryPlan direct = plan(Precision::Exact), winograd = plan(Precision::Default);
    CHECK(direct.flops == winograd.flops && direct.weight_bytes == winograd.weight_bytes);
    // a block of 64 tiles or more with 36 values for at least 32 + 32 channels
    const bool exists = std::string(cpu_isa()) != "reference";
    CHECK(winograd.activation_bytes >= direct.activation_bytes + (exists ? 64 * 36 * (32 + 32) * 4 : 0));
  });

  suite.add("unet refuses wrong inputs", [] {
    const UNetConfig config = golden_unet_config("tiny-if-II/unet");
    UNet unet(config, DType::F32, kCpu);
    const Tensor text = Tensor::zeros({2, 3, 64}, DType::F32, kCpu), t = Tensor::zeros({2}, DType::F32, kCpu);
    const Tensor x = Tensor::zeros({2, 8, 8, 6}, DType::F32, kCpu);
    expect_error(ErrorCode::InvalidArgument, "no weights are loaded", [&] { unet.prepare(text); });
    RandomSource source(unet.parameters());
    unet.load(source);
    const Conditioning cond = unet.prepare(text), one = unet.prepare(text.slice_first(0, 1));
    CHECK(ops::all_finite(unet.forward(x, t, cond, t)));
    const auto refused = [&](const char* part, const Tensor& input, const Conditioning& c, const Tensor& labels) {
      expect_error(ErrorCode::InvalidArgument, part, [&] { unet.forward(input, t, c, labels); });
    };
    refused("multiples of 4, got 8×6", Tensor::zeros({2, 8, 6, 6}, DType::F32, kCpu), cond, t);
    refused("x must be (batch, height, width, 6)", Tensor::zeros({2, 8, 8, 3}, DType::F32, kCpu), cond, t);
    refused("cond must hold 2 texts, got 1", x, one, t);
    refused("class_labels (the noise level) must be given", x, cond, Tensor());
    expect_error(ErrorCode::InvalidArgument, "t must be (2) f32",
                 [&] { unet.forward(x, Tensor::zeros({3}, DType::F32, kCpu), cond, t); });
    expect_error(ErrorCode::InvalidArgument, "text must be (batch, tokens, 64)",
                 [&] { unet.prepare(Tensor::zeros({2, 3, 65}, DType::F32, kCpu)); });
  });

  suite.add("float16 is for unets on cuda that are not trained", [] {
    const UNetConfig unet = golden_unet_config("tiny-if-I/unet");
    CHECK(UNet(unet, DType::F16, kMetaCuda).dtype() == DType::F16);
    const auto refused = [](const char* part, const std::function<void()>& f) { expect_error(ErrorCode::InvalidArgument, part, f); };
    for (const Device device : {kCpu, kMeta}) refused("unet: dtype must be f32 or bf16, got f16", [&] { UNet(unet, DType::F16, device); });
    refused("unet: dtype must be f32 or bf16 in training, got f16", [&] { UNet(unet, DType::F16, kMetaCuda, WeightOptions{.trainable = true}); });
    refused("t5 encoder: dtype must be f32 or bf16, got f16", [] { T5Encoder(golden_t5_config(), DType::F16, kMetaCuda); });
    const auto planned = [&](DType dtype) { return plan_unet(unet, dtype, 1, 64, 64, 8, true, Precision::Default, kMetaCuda); };
    CHECK(planned(DType::F16).weight_bytes == planned(DType::BF16).weight_bytes);
    CHECK(planned(DType::F16).activation_bytes == planned(DType::BF16).activation_bytes);
  });

  suite.add("unet config names the field", [] {
    const std::string good = normalised_unet_config(golden_json("tiny-if-I/unet/config.json"));
    const auto refused = [&](const char* from, const char* to, const char* part) {
      std::string text = good;
      text.replace(text.find(from), std::string(from).size(), to);
      expect_error(ErrorCode::InvalidArgument, part, [&] { UNetConfig::from_json(text); });
    };
    refused("\"normEps\"", "\"normEpsilon\"", "normEps is missing");
    refused("\"inChannels\":3", "\"inChannels\":3.5", "inChannels must be a whole number from 1 to 65536, got 3.5");
    refused("\"actFn\":\"gelu\"", "\"actFn\":\"relu\"", "actFn must be silu or gelu, got \"relu\"");
    refused("[32,32,64]", "[32,33,64]", "blockOutChannels must be a multiple of normNumGroups 32, got 33");
    refused("\"layersPerBlock\":[1,1,1]", "\"layersPerBlock\":[1,1]", "layersPerBlock must be a list of 3 entries");
    refused("\"flipSinToCos\":true", "\"flipSinToCos\":1", "flipSinToCos must be true or false, got 1");
  });
});

// The same results, weights loaded and inputs and outputs copied on the way.
const Registration devices([](Suite& suite) {
  for (const DType dtype : kComputed)
    for (const GoldenUNet& g : kGoldenUNets)
      add_device_case(suite, format("%s on a device %s", g.name, dtype_name(dtype)), [=] {
        UNet unet(golden_unet_config(g.folder), dtype, kCuda);
        SafetensorsSource source = golden_unet_source(g.folder);
        unet.load(source);
        const auto io = golden(std::string(g.name) + "_io");
        const double torch_error = golden_json("bf16_error.json").find(g.name)->number();
        // float16 rounds like bfloat16, in proportion to its unit roundoff
        const double rounding = kBfloat16 * torch_error * dtype_epsilon(dtype) / dtype_epsilon(DType::BF16);
        check_close("out", ops::nhwc_to_nchw(run_golden_unet(unet, *io)), io->tensor("out"), dtype == DType::F32 ? kTolerance : rounding);
      });
});

void check_t5(DType dtype, Device device) {
  T5Encoder encoder(golden_t5_config(), dtype, device);
  SafetensorsSource source = golden_t5_source();
  encoder.load(source);
  const auto io = golden("t5_tiny_io");
  const Tensor out = run_golden_t5(encoder, *io);
  const double torch_error = golden_json("bf16_error.json").find("t5_tiny")->number();
  check_close("last_hidden_state", out, io->tensor("last_hidden_state"),
              dtype == DType::F32 ? kTolerance : kBfloat16 * torch_error);
}

const Registration t5([](Suite& suite) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    suite.add(format("t5_tiny %s", dtype_name(dtype)), [dtype] { check_t5(dtype, kCpu); });
    add_device_case(suite, format("t5_tiny on a device %s", dtype_name(dtype)), [dtype] { check_t5(dtype, kCuda); });
  }
});

}  // namespace
}  // namespace df::test
