// One replica of a model in training: float32 parameters, their gradients, AdamW's moments, the EMA. TypeScript decides
// what every sample is (timestep, weights, captions); a call here is one micro-batch or one optimizer step.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "io/state_source.h"
#include "nn/t5_encoder.h"
#include "nn/unet.h"
#include "optim/adamw.h"
#include "ops/types.h"

namespace df {

/// The noise added to a picture, by Philox keyed with (seed, purpose, sample index): the same for any split of a batch.
struct NoiseOptions {
  float offset = 0;               ///< + offset · one normal number per channel (Guttenberg 2023; diffengine OffsetNoise)
  float pyramid_discount = 0;     ///< > 0: pyramid noise (diffengine PyramidNoise: discount 0.9)
  float input_perturbation = 0;   ///< xt is built with noise + γ · ξ, the target stays noise (Ning et al. 2023)
};

/// One training sample: coefficients computed in float64 by TypeScript.
struct TrainingSample {
  uint64_t index = 0;                     ///< global sample index: the key of its noise
  float timestep = 0;                     ///< what the UNet is told
  float image_scale = 1, noise_scale = 0; ///< xt = image_scale · x0 + noise_scale · noise: √ᾱ, √(1-ᾱ)
  float noise_level = 0;                  ///< class label of stages II and III
  float low_res_scale = 1, low_res_noise_scale = 0;  ///< the same for the upsampled low-resolution picture
  LossSample loss;
};

struct MicroBatch {
  Tensor images;                   ///< (B, H, W, 3) float32 in [-1, 1]
  Tensor low_res;                  ///< (B, h, w, 3) float32 in [-1, 1], enlarged bilinearly to (H, W); undefined: stage I
  Tensor text;                     ///< (B, T, encoder_hid_dim); or
  Tensor ids, mask;                ///< (B, T) int32 for a text encoder that is trained as well
  std::vector<TrainingSample> samples;
  NoiseOptions noise;
  uint64_t seed = 0;
  DiffusionLoss::Main main = DiffusionLoss::Main::Mse;
  float huber_delta = 1;
  float gradient_scale = 1;        ///< 1 / samples of the logical batch
};

struct TrainerOptions {
  DType dtype = DType::BF16;       ///< of products and activations; parameters are float32
  Precision precision = Precision::Default;
  bool checkpointing = false;      ///< residual and attention blocks are computed again on the way back
  bool ema = false;
};

class Trainer {
 public:
  /// `t5`: the text encoder is trained as well.
  Trainer(const UNetConfig& unet, const std::optional<T5Config>& t5, Device device, const TrainerOptions& options);
  /// Parameters from diffusers / transformers files, moments zero, EMA equal to the parameters.
  void load(StateSource& unet, StateSource* t5, const LoadProgress& progress);
  /// Random parameters for training from scratch, as diffusers and transformers initialise them.
  void initialise(uint64_t seed);
  /// Forward and backward; gradients are added up. Returns (B, 2) float32: DiffusionLoss terms.
  Tensor accumulate(const MicroBatch& batch);
  /// The same terms without gradients; `use_ema`: of the averaged weights.
  Tensor evaluate(const MicroBatch& batch, bool use_ema);
  /// One AdamW step over all parameters; gradients are zero afterwards, also when the step was not applied.
  OptimizerResult step(const OptimizerStep& p);
  /// Writes the tensors of one kind in file layout (diffusers' names), atomically, metadata included.
  enum class Kind { Unet, UnetEma, UnetMoments, T5, T5Ema, T5Moments };
  void save(const std::string& path, Kind kind, DType dtype, const std::vector<std::pair<std::string, std::string>>& metadata) const;
  /// Reads back what `save` wrote in float32, bit for bit.
  void restore(const std::string& path, Kind kind);
  /// A copy for sampling (packed, in `dtype`).
  std::shared_ptr<UNet> unet(DType dtype, bool ema) const;
  std::shared_ptr<T5Encoder> t5(DType dtype, bool ema) const;
  Device device() const;
  // … defined by native/training/trainer.cpp
};

}  // namespace df
