// Gradients of UNet and T5 encoder against those that torch recorded (test/golden/README.md: 1e-4 relative per tensor,
// with an absolute floor of 1e-6 of the largest gradient for UNets).
#include <algorithm>
#include <cmath>

#include "compare.h"
#include "core/execution.h"
#include "device_case.h"
#include "golden_models.h"
#include "harness.h"
#include "ops/backend.h"
#include "ops/ops.h"

namespace df::test {
namespace {

constexpr double kTolerance = 1e-4, kFloor = 1e-6;
using Gradients = std::map<std::string, Tensor>;

double largest(const SafetensorsFile& file) {
  double value = 0;
  for (const std::string& name : file.names()) {
    const Tensor t = file.tensor(name);
    for (int64_t i = 0; i < t.numel(); i++) value = std::max(value, std::abs(double(t.data<float>()[i])));
  }
  return value;
}

double norm(const Tensor& t) {
  double sum = 0;
  for (int64_t i = 0; i < t.numel(); i++) sum += double(t.data<float>()[i]) * t.data<float>()[i];
  return std::sqrt(sum);
}

// ‖got - want‖ <= tolerance ‖want‖ + floor √n for every recorded tensor; every gradient is recorded.
void check_gradients(const Gradients& got, const SafetensorsFile& want, double tolerance, double floor) {
  size_t seen = 0;
  for (const std::string& name : want.names()) {
    const Record record = parse_record(name);
    const auto found = got.find(record.name);
    if (found == got.end()) fail_case("no gradient of %s", name.c_str());
    seen++;
    const Tensor expected = want.tensor(name), gradient = thinned(found->second, record);
    if (gradient.shape() != expected.shape())
      fail_case("%s: expected %s, got %s", name.c_str(), expected.shape().str().c_str(), gradient.shape().str().c_str());
    const double error = norm(ops::axpby(1, gradient, -1, expected)), size = norm(expected);
    const double allowed = tolerance * size + floor * std::sqrt(double(expected.numel()));
    if (!(error <= allowed)) fail_case("%s: error %.3g of %.3g, allowed %.3g", name.c_str(), error, size, allowed);
  }
  CHECK(seen == got.size());
}

Gradients unet_gradients(const GoldenUNet& g, DType dtype, Precision precision, bool checkpointing = false,
                         Device device = kCpu) {
  UNet unet(golden_unet_config(g.folder), dtype, device, WeightOptions{.precision = precision, .trainable = true});
  SafetensorsSource source = golden_unet_source(g.folder);
  unet.load(source);
  unet.set_checkpointing(checkpointing);
  return golden_unet_gradients(unet, *golden(std::string(g.name) + "_io"));
}

Gradients wide_gradients(DType dtype, Precision precision) {
  UNet unet(wide_config(), dtype, kCpu, WeightOptions{.precision = precision, .trainable = true});
  TensorMapSource source = wide_source();
  unet.load(source);
  return golden_unet_gradients(unet, *golden("wide_io"));
}

Gradients t5_gradients(DType dtype, bool checkpointing, Device device = kCpu) {
  T5Encoder encoder(golden_t5_config(), dtype, device, WeightOptions{.trainable = true});
  SafetensorsSource source = golden_t5_source();
  encoder.load(source);
  encoder.set_checkpointing(checkpointing);
  return golden_t5_gradients(encoder, *golden("t5_tiny_io"));
}

// All gradients as one vector: ‖got - want‖ / ‖want‖.
double total_error(const Gradients& got, const Gradients& want) {
  double error = 0, size = 0;
  for (const auto& [name, expected] : want) {
    error += std::pow(norm(ops::axpby(1, got.at(name), -1, expected)), 2);
    size += std::pow(norm(expected), 2);
  }
  return std::sqrt(error / size);
}

void check_same(const Gradients& a, const Gradients& b, const char* what) {
  CHECK(a.size() == b.size());
  for (const auto& [name, t] : a) {
    const std::string error = different_bits(t, b.at(name));
    if (!error.empty()) fail_case("%s: %s: %s", what, name.c_str(), error.c_str());
  }
}

Gradients with_threads(int threads, const std::function<Gradients()>& f) {
  ThreadPool pool(threads);
  Execution execution;
  execution.pool = &pool;
  ExecutionScope scope(execution);
  return f();
}

struct Network {
  std::string name;
  std::function<Gradients(DType dtype, bool checkpointing)> gradients;
};

std::vector<Network> networks() {
  std::vector<Network> all;
  for (const GoldenUNet& g : kGoldenUNets)
    all.push_back({g.name, [g](DType dtype, bool checkpointing) { return unet_gradients(g, dtype, Precision::Default, checkpointing); }});
  all.push_back({"t5_tiny", [](DType dtype, bool checkpointing) { return t5_gradients(dtype, checkpointing); }});
  return all;
}

const Registration f32([](Suite& suite) {
  for (const Precision precision : {Precision::Exact, Precision::Default}) {
    const char* mode = name_of(precision);
    for (const GoldenUNet& g : kGoldenUNets)
      suite.add(format("%s gradients f32 %s", g.name, mode), [=] {
        const auto want = golden(std::string(g.name) + "_grads");
        check_gradients(unet_gradients(g, DType::F32, precision), *want, kTolerance, kFloor * largest(*want));
      });
    suite.add(format("unet_wide gradients f32 %s", mode), [=] {
      const auto want = golden("wide_grads");
      check_gradients(wide_gradients(DType::F32, precision), *want, kTolerance, kFloor * largest(*want));
    });
  }
  suite.add("t5_tiny gradients f32",
            [] { check_gradients(t5_gradients(DType::F32, false), *golden("t5_tiny_grads"), kTolerance, 0); });
});

const Registration bits([](Suite& suite) {
  for (const Network& n : networks())
    for (const DType dtype : {DType::F32, DType::BF16})
      suite.add(format("%s gradients %s: threads and checkpoints change no bits", n.name.c_str(), dtype_name(dtype)), [=] {
        const Gradients want = with_threads(1, [&] { return n.gradients(dtype, false); });
        check_same(with_threads(2, [&] { return n.gradients(dtype, false); }), want, "2 threads");
        check_same(with_threads(2, [&] { return n.gradients(dtype, true); }), want, "checkpointing");
      });
});

// Parameters and their gradients are float32 in both; what differs is the arithmetic in between. Against torch's own
// error under autocast (bf16_gradient_error.json) with the margin that the forward passes have.
void check_bf16(const char* name, const Gradients& got, const Gradients& want, double margin) {
  const double torch_error = golden_json("bf16_gradient_error.json").find(name)->number();
  const double error = total_error(got, want);
  if (!(error <= margin * torch_error)) fail_case("relative error %.3g, torch's is %.3g", error, torch_error);
}

const Registration bf16([](Suite& suite) {
  for (const GoldenUNet& g : kGoldenUNets)
    for (const Precision precision : {Precision::Exact, Precision::Default, Precision::Fast})
      suite.add(format("%s gradients bf16 %s", g.name, name_of(precision)), [=] {
        const Gradients want = unet_gradients(g, DType::F32, Precision::Exact);
        check_bf16(g.name, unet_gradients(g, DType::BF16, precision), want,
                   kBfloat16 * (precision == Precision::Fast ? kFast : 1));
      });
  suite.add("t5_tiny gradients bf16",
            [] { check_bf16("t5_tiny", t5_gradients(DType::BF16, false), t5_gradients(DType::F32, false), kBfloat16); });
});

const Registration devices([](Suite& suite) {
  for (const GoldenUNet& g : kGoldenUNets) {
    add_device_case(suite, format("%s gradients on a device f32", g.name), [g] {
      const auto want = golden(std::string(g.name) + "_grads");
      check_gradients(unet_gradients(g, DType::F32, Precision::Exact, true, kCuda), *want, kTolerance, kFloor * largest(*want));
    });
    add_device_case(suite, format("%s gradients on a device bf16", g.name), [g] {
      check_bf16(g.name, unet_gradients(g, DType::BF16, Precision::Exact, false, kCuda),
                 unet_gradients(g, DType::F32, Precision::Exact), kBfloat16);
    });
  }
  add_device_case(suite, "t5_tiny gradients on a device f32",
                  [] { check_gradients(t5_gradients(DType::F32, false, kCuda), *golden("t5_tiny_grads"), kTolerance, 0); });
});

}  // namespace
}  // namespace df::test
