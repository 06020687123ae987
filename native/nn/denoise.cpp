#include "nn/denoise.h"

#include "core/error.h"
#include "core/execution.h"
#include "io/state_source.h"
#include "nn/t5_encoder.h"

namespace df {
namespace {

// A float32 vector of n equal values, on the device of the model.
Tensor filled(int64_t n, float value, Device device) {
  if (device.type == DeviceType::Meta) return Tensor::empty({n}, DType::F32, device);
  Tensor host = Tensor::empty({n}, DType::F32, kCpu);
  for (int64_t i = 0; i < n; i++) host.data<float>()[i] = value;
  return ops::to_device(host, device);
}

}  // namespace

ops::DdpmResult denoise_step(const UNet& unet, const Conditioning& cond, const DenoiseState& s, const Tensor& noise,
                             const DdpmStep& step, bool want_x0) {
  const int64_t batch = s.x.dim(0), channels = s.x.dim(-1);
  DF_CHECK(s.x.shape().rank() == 4, "denoise_step: x must be (B, H, W, C), got %s", s.x.shape().str().c_str());
  DF_CHECK(!s.low_res.defined() || s.low_res.shape() == s.x.shape(), "denoise_step: low_res must be %s, got %s",
           s.x.shape().str().c_str(), s.low_res.shape().str().c_str());
  const int64_t rows = cond.batch();
  DF_CHECK(rows == batch || rows == 2 * batch, "denoise_step: %lld pictures need %lld or %lld texts, got %lld",
           static_cast<long long>(batch), static_cast<long long>(batch), static_cast<long long>(2 * batch),
           static_cast<long long>(rows));

  const int64_t width = s.low_res.defined() ? 2 * channels : channels;
  Tensor input = Tensor::empty({rows, s.x.dim(1), s.x.dim(2), width}, unet.dtype(), unet.device());
  for (int64_t first = 0; first < rows; first += batch) {
    const Tensor half = input.slice_first(first, batch);
    ops::copy(s.x, unet.dtype(), half.slice_last(0, channels));
    if (s.low_res.defined()) ops::copy(s.low_res, unet.dtype(), half.slice_last(channels, channels));
  }
  const Tensor t = filled(rows, s.timestep, unet.device());
  const Tensor labels = s.low_res.defined() ? filled(rows, s.noise_level, unet.device()) : Tensor();
  const Tensor model = cond.steps->run(unet, input, t, cond, labels);
  return ops::ddpm_step(s.x, model, noise, step, want_x0);
}

MemoryPlan plan_unet(const UNetConfig& config, DType dtype, int64_t batch, int64_t height, int64_t width, int64_t tokens,
                     bool guided, Precision precision, Device meta) {
  const size_t base = memory_stats(meta).current;
  UNet unet(config, dtype, meta, precision);
  RandomSource source(unet.parameters());
  unet.load(source);
  const int64_t rows = guided ? 2 * batch : batch;
  return measure_memory(meta, base, [&](WorkCounter& work) {
    const Conditioning cond = unet.prepare(Tensor::empty({rows, tokens, config.encoder_hid_dim}, DType::F32, meta));
    work.flops = 0;  // once per picture
    DenoiseState s;
    const int64_t channels = config.class_embed ? config.in_channels / 2 : config.in_channels;
    s.x = Tensor::empty({batch, height, width, channels}, DType::F32, meta);
    if (config.class_embed) s.low_res = Tensor::empty(s.x.shape(), DType::F32, meta);
    denoise_step(unet, cond, s, Tensor::empty(s.x.shape(), DType::F32, meta), DdpmStep{.add_noise = true}, true);
  });
}

MemoryPlan plan_t5(const T5Config& config, DType dtype, bool int8_weights, int64_t batch, int64_t tokens,
                   Device meta) {
  const size_t base = memory_stats(meta).current;
  T5Encoder encoder(config, dtype, meta, int8_weights);
  RandomSource source(encoder.parameters());
  encoder.load(source);
  return measure_memory(meta, base, [&](WorkCounter&) {
    const Tensor ids = Tensor::empty({batch, tokens}, DType::I32, meta);
    encoder.forward(ids, ids);
  });
}

}  // namespace df
