#pragma once
#include <optional>

#include "nn/layers.h"

namespace df {

struct ResnetBlockParams {
  int64_t in_channels = 0, out_channels = 0;
  int64_t embedding_dim = 0;             ///< width of the time embedding
  int groups = 32;
  float eps = 1e-5f;
  Activation activation = Activation::Gelu;
  float output_scale_factor = 1;
  std::optional<Resample> resample;      ///< of the hidden states after norm1 and activation, and of the shortcut
};

/// Residual block with scale-shift time embedding (diffusers resnet.py ResnetBlock2D,
/// time_embedding_norm="scale_shift"; Dhariwal & Nichol 2021, "adaptive group normalization").
class ResnetBlock {
 public:
  ResnetBlock(ParameterStore& p, const std::string& name, const ResnetBlockParams& params);
  /// x (N, H, W, in), embedding (N, embedding_dim), already activated where the model asks for it → (N, H', W', out),
  /// where H' is H, 2H or H/2.
  Tensor forward(const Tensor& x, const Tensor& embedding, const Tensor& into = {}) const;
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  Activation activation_;
  float output_scale_;
  std::optional<Resample> resample_;
  GroupNorm norm1_;
  Conv2d conv1_;
  Linear time_emb_proj_;
  GroupNorm norm2_;
  Conv2d conv2_;
  std::optional<Conv2d> conv_shortcut_;
};

}  // namespace df
