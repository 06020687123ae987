// Weights into models and back: exact state dicts, one error for everything that is wrong, cancellation, progress.
#include <cmath>
#include <limits>
#include <map>

#include "compare.h"
#include "core/execution.h"
#include "device_case.h"
#include "golden.h"
#include "harness.h"
#include "nn/t5_encoder.h"
#include "nn/unet.h"
#include "op_case.h"
#include "ops/ops.h"

namespace df::test {
namespace {

UNetConfig config() {
  return UNetConfig::from_json(normalised_unet_config(golden_json("tiny-if-II/unet/config.json")));
}

SafetensorsSource file() {
  return SafetensorsSource({golden_path("tiny-if-II/unet/diffusion_pytorch_model.safetensors")});
}

T5Config t5_config() {
  return T5Config::from_json(normalised_t5_config(golden_json("tiny-if-I/text_encoder/config.json")));
}

std::map<std::string, Tensor> tensors_of(StateSource& source) {
  std::map<std::string, Tensor> tensors;
  for (const std::string& name : source.names()) tensors[name] = source.read(name);
  return tensors;
}

void check_same(const std::string& name, const Tensor& got, const Tensor& want) {
  const std::string difference = different_bits(got, want);
  if (!difference.empty()) fail_case("%s: %s", name.c_str(), difference.c_str());
}

// Every tensor comes back with the bits that it has after one rounding to the dtype it is stored in.
template <class Model> void check_round_trip(Model& model, StateSource& source) {
  model.load(source);
  const std::vector<NamedTensor> state = model.state_dict();
  CHECK(state.size() == model.parameters().size());
  std::map<std::string, Tensor> again;
  for (const NamedTensor& t : state) {
    check_same(t.name, t.tensor, ops::copy(source.read(t.name), t.tensor.dtype()));
    check_same(t.name, model.parameter(t.name), t.tensor);
    again[t.name] = t.tensor;
  }
  TensorMapSource own(again);
  model.load(own);
  for (const NamedTensor& t : model.state_dict()) check_same(t.name, t.tensor, again.at(t.name));
}

const Registration round_trip([](Suite& suite) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    suite.add(format("unet state dict round trip %s", dtype_name(dtype)), [dtype] {
      UNet unet(config(), dtype, kCpu);
      SafetensorsSource source = file();
      check_round_trip(unet, source);
      CHECK(source.names().size() == unet.parameters().size());
    });
    suite.add(format("t5 state dict round trip %s", dtype_name(dtype)), [dtype] {
      T5Encoder encoder(t5_config(), dtype, kCpu);
      SafetensorsSource source({golden_path("tiny-if-I/text_encoder/model.safetensors")});
      check_round_trip(encoder, source);
    });
  }

  for (const DType dtype : kComputed)
    add_device_case(suite, format("unet state dict round trip on a device %s", dtype_name(dtype)), [dtype] {
      UNet unet(config(), dtype, kCuda);
      SafetensorsSource source = file();
      check_round_trip(unet, source);
    });

  suite.add("t5 embedding under either name or both", [] {
    SafetensorsSource source({golden_path("tiny-if-I/text_encoder/model.safetensors")});
    std::map<std::string, Tensor> tensors = tensors_of(source);
    const Tensor table = tensors.at("shared.weight");
    T5Encoder encoder(t5_config(), DType::F32, kCpu);
    const auto load = [&] {
      TensorMapSource map(tensors);
      encoder.load(map);
      check_same("shared.weight", encoder.parameter("shared.weight"), ops::copy(table, DType::F32));
    };
    load();
    tensors["encoder.embed_tokens.weight"] = table;
    load();
    tensors.erase("shared.weight");
    load();
    tensors.erase("encoder.embed_tokens.weight");
    expect_error(ErrorCode::Weights, "1 missing: shared.weight", load);
  });
});

const Registration errors([](Suite& suite) {
  suite.add("loading lists everything that does not fit", [] {
    SafetensorsSource source = file();
    std::map<std::string, Tensor> tensors = tensors_of(source);
    UNet unet(config(), DType::F32, kCpu);
    const auto refused = [&](const std::string& part) {
      TensorMapSource map(tensors);
      expect_error(ErrorCode::Weights, part, [&] { unet.load(map); });
    };
    tensors["conv_in.wieght"] = tensors.at("conv_in.weight");
    tensors.erase("conv_in.weight");
    tensors.erase("mid_block.attentions.0.to_k.weight");
    tensors["conv_out.bias"] = Tensor::zeros({7}, DType::F32, kCpu);
    tensors["conv_out.weight"] = Tensor::zeros({6, 32, 3, 3}, DType::I32, kCpu);
    refused("2 missing: conv_in.weight, mid_block.attentions.0.to_k.weight");
    refused("2 of another shape or type: conv_out.weight (expected (6, 32, 3, 3), got (6, 32, 3, 3) i32), "
            "conv_out.bias (expected (6,), got (7,))");
    refused("1 unexpected: conv_in.wieght");
    tensors.clear();
    refused(" and " + std::to_string(unet.parameters().size() - 20) + " more");
    expect_error(ErrorCode::InvalidArgument, "no weights are loaded", [&] { unet.state_dict(); });
  });

  suite.add("loading lists tensors that are not finite", [] {
    SafetensorsSource source = file();
    std::map<std::string, Tensor> tensors = tensors_of(source);
    for (const char* name : {"conv_in.weight", "mid_block.attentions.0.to_k.weight", "add_embedding.norm2.bias"}) {
      tensors[name] = ops::copy(tensors.at(name), DType::F32);
      tensors[name].data<float>()[3] = std::numeric_limits<float>::quiet_NaN();
    }
    tensors["conv_out.weight"] = ops::copy(tensors.at("conv_out.weight"), DType::F32);
    tensors["conv_out.weight"].data<float>()[0] = 3.4e38f;  // finite, but infinite in bfloat16
    for (const DType dtype : {DType::F32, DType::BF16}) {
      UNet unet(config(), dtype, kCpu);
      TensorMapSource map(tensors);
      for (const char* name : {"conv_in.weight", "mid_block.attentions.0.to_k.weight", "add_embedding.norm2.bias"})
        expect_error(ErrorCode::Weights, name, [&] { unet.load(map); });
      const char* count = dtype == DType::F32 ? "3 tensor(s) with NaN" : "4 tensor(s) with NaN";
      expect_error(ErrorCode::Weights, count, [&] { unet.load(map); });
    }
  });

  suite.add("loading reports progress and can be cancelled", [] {
    UNet unet(config(), DType::F32, kCpu);
    SafetensorsSource source = file();
    double last = 0, sum = 0;
    for (const std::string& name : source.names()) {
      const TensorInfo info = source.describe(name);
      sum += double(info.shape.numel()) * double(dtype_size(info.dtype));
    }
    unet.load(source, [&](double done, double total) {
      CHECK(total == sum && done > last && done <= total);
      last = done;
    });
    CHECK(last == sum);

    std::atomic<bool> cancelled{false};
    Execution execution;
    execution.cancelled = &cancelled;
    ExecutionScope scope(execution);
    expect_error(ErrorCode::Cancelled, "cancelled",
                 [&] { unet.load(source, [&](double done, double total) { cancelled = done > total / 2; }); });
    cancelled = false;
    expect_error(ErrorCode::InvalidArgument, "no weights are loaded", [&] { unet.state_dict(); });
    CHECK(unet.weight_bytes() > 0);
    unet.load(source);
  });

  suite.add("models from random weights are repeatable", [] {
    UNet a(config(), DType::BF16, kCpu), b(config(), DType::BF16, kCpu);
    RandomSource source(a.parameters()), same(b.parameters());
    a.load(source);
    b.load(same);
    const auto x = a.state_dict(), y = b.state_dict();
    double sum = 0, squares = 0;
    for (size_t i = 0; i < x.size(); i++) check_same(x[i].name, x[i].tensor, y[i].tensor);
    const Tensor w = ops::copy(a.parameter("mid_block.resnets.0.conv1.weight"), DType::F32);  // (64, 64, 3, 3)
    for (int64_t i = 0; i < w.numel(); i++) {
      sum += w.data<float>()[i];
      squares += double(w.data<float>()[i]) * w.data<float>()[i];
    }
    // mean and variance of n normal numbers are within 5 / sqrt(n) and 5 * sqrt(2 / n) standard deviations
    const double n = double(w.numel()), variance = 1.0 / (64 * 9);
    CHECK(std::abs(sum / n) <= 5 * std::sqrt(variance / n));
    CHECK(std::abs(squares / n / variance - 1) <= 5 * std::sqrt(2 / n));
  });
});

}  // namespace
}  // namespace df::test
