// One command of the sampler: guidance batch, UNet, guidance, thresholding, scheduler step.
#pragma once
#include "nn/memory_plan.h"
#include "nn/t5_config.h"
#include "nn/unet.h"
#include "ops/ops.h"

namespace df {

/// The state of a batch of B pictures at one step. Tensors are float32 NHWC.
struct DenoiseState {
  Tensor x;                ///< (B, H, W, C) noisy pictures at `timestep`
  Tensor low_res;          ///< (B, H, W, C) upsampled, noised picture of the previous stage, or undefined (stage I)
  float timestep = 0;
  float noise_level = 0;   ///< timestep at which low_res was noised (class label); ignored without low_res
};

/// x_t → x_{t-1}. `cond` holds B texts, or 2B (unconditional first) for classifier-free guidance; the UNet then runs once
/// on the doubled batch. `noise` (B, H, W, C) is needed when step.add_noise. Sources: diffusers pipeline_if.py and
/// pipeline_if_superresolution.py (__call__), see ops::ddpm_step for the equations.
ops::DdpmResult denoise_step(const UNet& unet, const Conditioning& cond, const DenoiseState& state, const Tensor& noise,
                             const DdpmStep& step, bool want_x0);

/// One sampling step of `batch` pictures (doubled when `guided`) of height × width with `tokens` text tokens, on the CPU
/// (kMeta) or a cuda device (kMetaCuda).
MemoryPlan plan_unet(const UNetConfig& config, DType dtype, int64_t batch, int64_t height, int64_t width, int64_t tokens,
                     bool guided, Precision precision = Precision::Default, Device meta = kMeta);
/// One encoding of `batch` texts; `int8_weights` as for T5Encoder, `meta` as of plan_unet.
MemoryPlan plan_t5(const T5Config& config, DType dtype, bool int8_weights, int64_t batch, int64_t tokens,
                   Device meta = kMeta);

}  // namespace df
