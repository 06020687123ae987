// The T5 encoder with int8 weights: what they mean, what they cost, and their bytes.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "compare.h"
#include "cpu/reference/values.h"
#include "golden.h"
#include "harness.h"
#include "nn/denoise.h"
#include "nn/t5_encoder.h"
#include "ops/ops.h"
#include "tensors.h"

namespace df::test {
namespace {

constexpr double kTolerance = 1e-5, kBfloat16 = 1.25;  // test/golden/README.md

T5Config config() {
  return T5Config::from_json(normalised_t5_config(golden_json("tiny-if-I/text_encoder/config.json")));
}

SafetensorsSource file() {
  return SafetensorsSource({golden_path("tiny-if-I/text_encoder/model.safetensors")});
}

std::map<std::string, Tensor> tensors_of(StateSource& source) {
  std::map<std::string, Tensor> tensors;
  for (const std::string& name : source.names()) tensors[name] = source.read(name);
  return tensors;
}

bool is_linear(const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  return has("DenseReluDense.") || (has("SelfAttention.") && !has("relative_attention_bias"));
}

Tensor int32_of(const Tensor& ids) {
  Tensor t = Tensor::empty(ids.shape(), DType::I32, kCpu);
  for (int64_t i = 0; i < ids.numel(); i++) t.data<int32_t>()[i] = int32_t(ids.data<int64_t>()[i]);
  return t;
}

Tensor run(const T5Encoder& encoder) {
  const auto io = golden("t5_tiny_io");
  return encoder.forward(int32_of(io->tensor("input_ids.i64")), int32_of(io->tensor("attention_mask.i64")));
}

// Scale of every row, from the definition.
std::vector<double> steps(const Tensor& weight) {
  const auto values = reference::load(weight);
  std::vector<double> step(size_t(weight.dim(0)));
  for (size_t i = 0; i < values.size(); i++) {
    double& s = step[i / size_t(weight.dim(1))];
    s = std::max(s, std::abs(values[i]) / 127);
  }
  return step;
}

// The relative error that int8 weights should make, to first order. Rounding errors of n weights w are independent and
// uniform in ± step / 2: the variance of an output y is Σ_w step² / 12 (dy/dw)². The recorded gradients are those of
// mean(y * loss_weight) with normal loss_weight: N² times their squares have the expectation Σ_y (dy/dw)².
double predicted_error() {
  SafetensorsSource weights = file();
  const auto gradients = golden("t5_tiny_grads"), io = golden("t5_tiny_io");
  double variance = 0;
  for (const std::string& recorded : gradients->names()) {
    const size_t at = recorded.find('@');  // NAME@K holds every K-th element
    const std::string name = recorded.substr(0, at);
    if (!is_linear(name)) continue;
    const size_t stride = at == std::string::npos ? 1 : size_t(std::stoll(recorded.substr(at + 1)));
    const Tensor weight = weights.read(name);
    const auto step = steps(weight), gradient = reference::load(gradients->tensor(recorded));
    for (size_t i = 0; i < gradient.size(); i++) {
      const double s = step[i * stride / size_t(weight.dim(1))];
      variance += double(stride) * s * s / 12 * gradient[i] * gradient[i];
    }
  }
  const auto y = reference::load(io->tensor("last_hidden_state"));
  double norm = 0;
  for (const double v : y) norm += v * v;
  return double(y.size()) * std::sqrt(variance / norm);
}

const Registration meaning([](Suite& suite) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    suite.add(format("t5_tiny int8 computes with the int8 weights, %s", dtype_name(dtype)), [dtype] {
      T5Encoder encoder(config(), dtype, kCpu, true), full(config(), DType::F32, kCpu);
      SafetensorsSource source = file();
      encoder.load(source);
      std::map<std::string, Tensor> rounded;
      for (const NamedTensor& t : encoder.state_dict()) rounded[t.name] = t.tensor;
      TensorMapSource map(rounded);
      full.load(map);
      const double torch_error = golden_json("bf16_error.json").find("t5_tiny")->number();
      check_close("last_hidden_state", run(encoder), run(full),
                  dtype == DType::F32 ? kTolerance : kBfloat16 * torch_error);
    });

    suite.add(format("t5_tiny int8 is as close to float32 as its steps say, %s", dtype_name(dtype)), [dtype] {
      T5Encoder encoder(config(), dtype, kCpu, true);
      SafetensorsSource source = file();
      encoder.load(source);
      // the prediction knows one random combination of the outputs only: up to twice
      const double torch_error = golden_json("bf16_error.json").find("t5_tiny")->number(),
                   tolerance = 2 * predicted_error() + (dtype == DType::F32 ? kTolerance : kBfloat16 * torch_error);
      CHECK(tolerance <= 0.1);
      check_close("last_hidden_state", run(encoder), golden("t5_tiny_io")->tensor("last_hidden_state"), tolerance);
    });

    suite.add(format("t5_tiny int8 gives its weights back, %s", dtype_name(dtype)), [dtype] {
      T5Encoder encoder(config(), dtype, kCpu, true);
      SafetensorsSource source = file();
      encoder.load(source);
      size_t linear = 0;
      std::map<std::string, Tensor> again;
      for (const NamedTensor& t : encoder.state_dict()) {
        const Tensor want = source.read(t.name);
        again[t.name] = t.tensor;
        if (!is_linear(t.name)) {
          CHECK(different_bits(t.tensor, ops::copy(want, t.tensor.dtype())).empty());
          continue;
        }
        linear++;
        CHECK(t.tensor.dtype() == DType::F32 && t.tensor.shape() == want.shape());
        const auto step = steps(want), got = reference::load(t.tensor), exact_values = reference::load(want);
        for (size_t i = 0; i < got.size(); i++)
          CHECK(std::abs(got[i] - exact_values[i]) <= (0.5 + 0x1p-16) * step[i / size_t(want.dim(1))]);
      }
      CHECK(linear == 7 * size_t(config().num_layers));
      // multiplied out they are on the grid, so that rounding them again changes no more than the last bit of a scale
      TensorMapSource own(again);
      encoder.load(own);
      for (const NamedTensor& t : encoder.state_dict()) check_close(t.name, t.tensor, again.at(t.name), 0x1p-22);
    });
  }

  suite.add("t5 int8 takes half the bytes of bf16, as planned", [] {
    const auto loaded_bytes = [](DType dtype, bool int8) {
      T5Encoder encoder(config(), dtype, kCpu, int8);
      const size_t before = encoder.weight_bytes();
      SafetensorsSource source = file();
      encoder.load(source);
      CHECK(before <= encoder.weight_bytes());  // packing may add padding
      const MemoryPlan plan = plan_t5(config(), dtype, int8, 2, 77);
      CHECK(plan.weight_bytes >= encoder.weight_bytes());
      CHECK(plan.weight_bytes <= encoder.weight_bytes() + 64 * encoder.parameters().size());  // alignment
      return encoder.weight_bytes();
    };
    loaded_bytes(DType::F32, true);
    loaded_bytes(DType::BF16, true);

    const char* json = R"({"vocab_size":32128,"d_model":4096,"d_kv":64,"d_ff":10240,"num_layers":24,"num_heads":64})";
    const T5Config xxl = T5Config::from_json(normalised_t5_config(Json::parse(json, "T5-XXL")));
    const double linear = 24.0 * (4 * 4096.0 * 4096 + 3 * 4096.0 * 10240);  // weights of the layers that are int8
    const double outputs = 24.0 * (4 * 4096 + 2 * 10240 + 4096);
    const MemoryPlan half = plan_t5(xxl, DType::BF16, false, 2, 77), int8 = plan_t5(xxl, DType::BF16, true, 2, 77);
    CHECK(double(half.weight_bytes) - double(int8.weight_bytes) == linear - 4 * outputs);
    CHECK(half.flops == int8.flops && half.activation_bytes == int8.activation_bytes);
  });

  suite.add("t5 int8 rounds from whatever dtypes the file holds", [] {
    SafetensorsSource source = file();
    std::map<std::string, Tensor> tensors = tensors_of(source);
    T5Encoder encoder(config(), DType::BF16, kCpu, true);
    encoder.load(source);
    std::map<std::string, Tensor> want;
    for (const NamedTensor& t : encoder.state_dict()) want[t.name] = t.tensor;
    for (const char* name :
         {"encoder.block.0.layer.0.SelfAttention.k.weight", "encoder.block.2.layer.1.DenseReluDense.wo.weight"})
      tensors[name] = ops::copy(tensors.at(name), DType::F32);  // float16 in the file: the same values
    TensorMapSource map(tensors);
    encoder.load(map);
    for (const NamedTensor& t : encoder.state_dict()) CHECK(different_bits(t.tensor, want.at(t.name)).empty());
  });

  suite.add("t5 int8 refuses weights that are not finite", [] {
    SafetensorsSource source = file();
    std::map<std::string, Tensor> tensors = tensors_of(source);
    const char *single = "encoder.block.0.layer.0.SelfAttention.o.weight",
               *stacked = "encoder.block.1.layer.1.DenseReluDense.wi_1.weight";
    for (const char* name : {single, stacked}) tensors[name] = ops::copy(tensors.at(name), DType::F32);
    tensors[single].data<float>()[5] = std::numeric_limits<float>::quiet_NaN();
    tensors[stacked].data<float>()[7] = std::numeric_limits<float>::infinity();
    T5Encoder encoder(config(), DType::BF16, kCpu, true);
    TensorMapSource map(tensors);
    expect_error(ErrorCode::Weights, "2 tensor(s) with NaN or infinite values", [&] { encoder.load(map); });
    expect_error(ErrorCode::Weights, single, [&] { encoder.load(map); });
    expect_error(ErrorCode::Weights, stacked, [&] { encoder.load(map); });
  });
});

}  // namespace
}  // namespace df::test
