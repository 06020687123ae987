// One replica of a model in training: float32 parameters, their gradients, AdamW's moments, the EMA. With LoRA the
// parameters are the factors, and the model is frozen and packed as for sampling. TypeScript decides what every sample is
// (timestep, weights, captions); a call here is one micro-batch or one optimizer step.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/tape.h"
#include "io/state_source.h"
#include "nn/lora.h"
#include "nn/memory_plan.h"
#include "nn/t5_encoder.h"
#include "nn/unet.h"
#include "ops/types.h"
#include "optim/adamw.h"
#include "training/noise.h"

namespace df {

/// One training sample: coefficients computed in float64 by TypeScript.
struct TrainingSample {
  uint64_t index = 0;                     ///< global sample index: the key of its noise
  float timestep = 0;                     ///< what the UNet is told
  float image_scale = 1, noise_scale = 0; ///< xt = image_scale · x0 + noise_scale · noise: √ᾱ, √(1-ᾱ)
  float noise_level = 0;                  ///< class label of stages II and III
  float low_res_scale = 1, low_res_noise_scale = 0;  ///< the same for the upsampled low-resolution picture
  LossSample loss;
};

/// Tensors are on the device of the trainer, but ids and mask on the CPU.
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

/// A micro-batch whose noise is drawn. All (B, H, W, 3) float32.
struct NoisedImages {
  Tensor noise;                    ///< the target of ε-prediction
  Tensor xt;
  Tensor low_res;                  ///< enlarged and noised; undefined: stage I
};

/// Of the UNet's layers, and of the text encoder's when it is trained as well.
struct TrainedLora {
  int64_t rank = 16;
  double alpha = 16, dropout = 0;
  std::vector<std::string> targets{"to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"};
  std::vector<std::string> text_targets{"q", "k", "v", "o"};
};

struct TrainerOptions {
  DType dtype = DType::BF16;       ///< of products, activations and frozen weights; parameters are float32
  Precision precision = Precision::Default;
  bool checkpointing = false;      ///< residual, attention and T5 blocks are computed again on the way back
  bool ema = false;
  std::optional<TrainedLora> lora = std::nullopt;
};

/// A model, and what belongs to its parameters: states of its ParameterStore.
struct TrainedModel {
  ParameterStore* store = nullptr;  ///< of the model, or of its LoRA factors; null: this model is not trained
  std::vector<Tensor> values, gradients, moments, squared_moments, ema;  ///< empty before `load`; ema: unless wanted
};

/// The model reads other values for the lifetime of the scope.
class ValuesScope {
 public:
  ValuesScope(const TrainedModel& model, const std::vector<Tensor>& values) : model_(model) {
    model.store->set_values(values);
  }
  ~ValuesScope() { model_.store->set_values(model_.values); }
  ValuesScope(const ValuesScope&) = delete;
  ValuesScope& operator=(const ValuesScope&) = delete;

 private:
  const TrainedModel& model_;
};

/// All but the constructor and what fills the parameters throw INVALID_ARGUMENT while there are none. Not thread-safe.
class Trainer {
 public:
  /// `t5`: the text encoder is trained as well.
  Trainer(const UNetConfig& unet, const std::optional<T5Config>& t5, Device device, const TrainerOptions& options);
  /// Parameters from diffusers / transformers files, moments and gradients zero, EMA equal to the parameters. After an
  /// error there are no parameters. With LoRA: the frozen weights; the factors begin as PEFT's do, the lower one random by
  /// `seed` and the upper one zero.
  void load(StateSource& unet, StateSource* t5, const LoadProgress& progress = {}, uint64_t seed = 0);
  /// Random parameters for training from scratch, as diffusers and transformers initialise them; the rest as `load`.
  void initialise(uint64_t seed);

  /// Forward and backward; gradients are added up. Returns (B, 2) float32: DiffusionLoss terms. After an error (a
  /// cancelled command, say) the gradients are zero: the logical batch begins anew.
  Tensor accumulate(const MicroBatch& batch);
  /// The same for noise that is drawn already.
  Tensor accumulate(const MicroBatch& batch, const NoisedImages& images);
  /// The same terms without gradients; `use_ema`: of the averaged weights.
  Tensor evaluate(const MicroBatch& batch, bool use_ema);
  /// One AdamW step over all parameters; gradients are zero afterwards, also when the step was not applied.
  OptimizerResult step(const OptimizerStep& p);

  /// What is written to and read from a file. Moments are tensors "NAME.exp_avg" and "NAME.exp_avg_sq".
  enum class Part { Unet, UnetEma, UnetMoments, T5, T5Ema, T5Moments };
  /// Writes one part in file layout (diffusers' names), atomically, tensor by tensor. Throws INVALID_ARGUMENT when the
  /// part does not exist here, WEIGHTS when values are not finite in `dtype`, IO.
  void save(const std::string& path, Part part, DType dtype, const Metadata& metadata) const;
  /// Reads back what `save` wrote, in float32 bit for bit; the other parts stay. Parameters come first: they bring zero
  /// moments and an equal EMA when there were none. With LoRA a part is of the factors, and `load` comes before. Errors
  /// as ParameterStore::load; after one of them the part may be changed by half.
  void restore(const std::string& path, Part part);

  /// A copy for sampling, packed in `dtype`. With LoRA `dtype` is that of the trainer; the products are added to the weights
  /// of the layers that have them, and the other weights are shared.
  std::shared_ptr<UNet> unet(DType dtype, bool ema) const;
  std::shared_ptr<T5Encoder> t5(DType dtype, bool ema) const;

  Device device() const { return device_; }
  const UNetConfig& unet_config() const { return unet_config_; }
  /// Trained numbers, and the bytes of parameters, gradients, moments, EMA and frozen weights.
  int64_t parameter_count() const;
  size_t bytes() const;
  /// The UNet, and the text encoder when it is trained.
  std::vector<TrainedModel*> models();

 private:
  void check_loaded() const;
  void check_batch(const MicroBatch& batch) const;
  NoisedImages add_noise(const MicroBatch& batch) const;
  Tensor forward(const MicroBatch& batch, const NoisedImages& images) const;
  Tensor loss(const MicroBatch& batch, const NoisedImages& images, const Tensor& model, Tensor dmodel) const;
  void attach(TrainedModel& model);
  void zero_gradients();
  const TrainedModel& model_of(Part part) const;
  template <class Model>
  std::shared_ptr<Model> copy(std::shared_ptr<Model> into, const std::unique_ptr<Model>& from, Part part) const;

  UNetConfig unet_config_;
  std::optional<T5Config> t5_config_;
  Device device_;
  TrainerOptions options_;
  std::unique_ptr<UNet> unet_;
  std::unique_ptr<T5Encoder> t5_;
  std::unique_ptr<Lora> unet_lora_, t5_lora_;
  TrainedModel unet_model_, t5_model_;
  Tape tape_;         // watches the gradients of all parameters that are loaded
  AdamW optimizer_;   // of the same
};

/// Gives all replicas the sum of their gradients, by the tree of tree_sum in the order of `replicas`: two replicas with
/// a batch of 2 each have the bits of one with a batch of 4. No replica may be in use. Throws INVALID_ARGUMENT for
/// replicas of different models or repeated ones.
void reduce_gradients(const std::vector<Trainer*>& replicas);

/// Parameters, gradients, moments and EMA as weight_bytes, the rest of one micro-batch of `batch` pictures of height ×
/// width and `tokens` text tokens as activation_bytes, and its flops; `meta` as of plan_unet.
MemoryPlan plan_trainer(const UNetConfig& unet, const std::optional<T5Config>& t5, const TrainerOptions& options,
                        int64_t batch, int64_t height, int64_t width, int64_t tokens, Device meta = kMeta);

}  // namespace df
