#include "bench/timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/device_runtime.h"
#include "core/execution.h"
#include "core/random.h"
#include "io/state_source.h"
#include "ops/ops.h"
#include "training/trainer.h"

namespace df {
namespace {

constexpr int64_t kTokens = 77;

// Normal values, the same in every run.
Tensor random_tensor(const Shape& shape, DType dtype, float scale, uint64_t seed, Device device) {
  Tensor host = Tensor::empty(shape, DType::F32, kCpu);
  TorchGenerator(seed).normal(host.data<float>(), host.numel());
  const Tensor t = device == kCpu ? host : ops::to_device(host, device);
  return ops::copy(ops::axpby(scale, t, 0, t), dtype);
}

Tensor vector_of(const std::vector<float>& values, Device device) {
  Tensor host = Tensor::empty({int64_t(values.size())}, DType::F32, kCpu);
  std::copy(values.begin(), values.end(), host.data<float>());
  return ops::to_device(host, device);
}

template <class F> Timing time_runs(int64_t runs, Device device, F run) {
  const auto once = [&] {
    run();
    if (device.type == DeviceType::Cuda) device_runtime().synchronize(device);
  };
  Timing t;
  once();
  WorkCounter work;
  Execution execution = Execution::current();
  execution.work = &work;
  ExecutionScope scope(execution);
  reset_peak(device);
  for (int64_t i = 0; i < runs; i++) {
    const auto start = std::chrono::steady_clock::now();
    once();
    t.seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  t.flops = work.flops / double(runs);
  t.peak_bytes = memory_stats(device).peak;
  return t;
}

}  // namespace

double median(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

Timing time_linear(int64_t m, int64_t n, int64_t k, DType dtype, bool int8_weights, int64_t runs, Device device) {
  const Tensor x = random_tensor({m, k}, dtype, 1, 1, device);
  const Tensor plain = random_tensor({n, k}, DType::F32, 0.02f, 2, device);
  const Weight w = int8_weights ? ops::pack_int8(plain, dtype) : ops::pack(plain, dtype);
  const Tensor y = Tensor::empty({m, n}, dtype, device);
  return time_runs(runs, device, [&] { ops::linear(x, w, {}, y); });
}

Timing time_conv(int64_t batch, int64_t size, int64_t in, int64_t out, DType dtype, Precision precision, int64_t runs,
                 Device device) {
  const Conv2dParams params{1, 1, conv_algorithm(precision)};
  const Tensor x = random_tensor({batch, size, size, in}, dtype, 1, 1, device);
  const Weight w = ops::pack(random_tensor({out, 3, 3, in}, DType::F32, 0.02f, 2, device), dtype);
  const Tensor y = Tensor::empty({batch, size, size, out}, dtype, device);
  return time_runs(runs, device, [&] { ops::conv2d(x, w, params, {}, y); });
}

Timing time_unet(const UNetConfig& config, DType dtype, int64_t batch, int64_t size, Precision precision, int64_t runs,
                 Device device) {
  UNet unet(config, dtype, device, precision);
  RandomSource source(unet.parameters());
  unet.load(source);
  const Tensor x = random_tensor({batch, size, size, config.in_channels}, dtype, 1, 1, device);
  const Conditioning cond = unet.prepare(random_tensor({batch, kTokens, config.encoder_hid_dim}, DType::F32, 1, 2, device));
  const Tensor t = vector_of(std::vector<float>(size_t(batch), 500), device);
  const Tensor labels = config.class_embed ? vector_of(std::vector<float>(size_t(batch), 250), device) : Tensor();
  return time_runs(runs, device, [&] { cond.steps->run(unet, x, t, cond, labels); });
}

Timing time_t5(const T5Config& config, DType dtype, int64_t batch, int64_t runs, Device device) {
  T5Encoder encoder(config, dtype, device);
  RandomSource source(encoder.parameters());
  prepare_random(source, encoder);
  encoder.load(source);
  const Tensor ids = Tensor::empty({batch, kTokens}, DType::I32, kCpu), mask = Tensor::empty({batch, kTokens}, DType::I32, kCpu);
  for (int64_t i = 0; i < ids.numel(); i++) {
    ids.data<int32_t>()[i] = int32_t(i * 7919 % config.vocab_size);
    mask.data<int32_t>()[i] = 1;
  }
  return time_runs(runs, device, [&] { encoder.forward(ids, mask); });
}

Timing time_training(const UNetConfig& config, DType dtype, int64_t batch, int64_t size, bool checkpointing, int64_t runs,
                     Device device) {
  Trainer trainer(config, std::nullopt, device, {.dtype = dtype, .checkpointing = checkpointing});
  trainer.initialise(0);
  const int64_t channels = config.class_embed ? config.in_channels / 2 : config.in_channels;
  MicroBatch b;
  b.images = random_tensor({batch, size, size, channels}, DType::F32, 0.5f, 1, device);
  if (config.class_embed) b.low_res = random_tensor({batch, size / 4, size / 4, channels}, DType::F32, 0.5f, 2, device);
  b.text = random_tensor({batch, kTokens, config.encoder_hid_dim}, DType::F32, 1, 3, device);
  b.gradient_scale = 1 / float(batch);
  int64_t n = 0;
  return time_runs(runs, device, [&] {
    b.samples.clear();
    for (int64_t i = 0; i < batch; i++)
      b.samples.push_back({.index = uint64_t(n * batch + i), .timestep = float((100 + 250 * i) % 1000), .image_scale = 0.8f,
                           .noise_scale = 0.6f, .noise_level = 250, .low_res_scale = 0.9f, .low_res_noise_scale = 0.435f,
                           .loss = {.sample_scale = 1.25f, .output_scale = -0.75f}});
    trainer.accumulate(b);
    trainer.step({.step = ++n, .lr = 1e-5, .weight_decay = 1e-2, .clip_norm = 1});
  });
}

void prepare_random(RandomSource& source, const T5Encoder& t5) {
  source.scale("SelfAttention.q.weight", float(1 / std::sqrt(double(t5.config().d_kv))));
  source.scale("shared.weight", float(std::sqrt(double(t5.config().d_model))));
}

}  // namespace df
