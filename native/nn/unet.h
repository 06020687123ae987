// The diffusion network of all three stages (diffusers unet_2d_condition.py, UNet2DConditionModel).
#pragma once
#include <optional>

#include "nn/embeddings.h"
#include "nn/module.h"
#include "nn/unet_blocks.h"
#include "nn/unet_config.h"

namespace df {

class UNet : public Module {
 public:
  /// `dtype`: of the products and activations: f32 or bf16, on a GPU f16 as well. Weights come with `load`. `precision`: of
  /// the convolutions.
  UNet(const UNetConfig& config, DType dtype, Device device, Precision precision = Precision::Default)
      : UNet(config, dtype, device, WeightOptions{.precision = precision}) {}
  UNet(const UNetConfig& config, DType dtype, Device device, const WeightOptions& options);
  const UNetConfig& config() const { return config_; }

  /// Everything that depends on the text alone, for all steps of a picture: keys and values of every attention block
  /// and the pooled embedding. text (B, T, encoder_hid_dim) of any floating dtype; `pooled_text` (B, T',
  /// encoder_hid_dim) is what the pooled embedding reads, by default the same text.
  Conditioning prepare(const Tensor& text, const Tensor& pooled_text = {}) const;

  /// x (B, H, W, in_channels) of any floating dtype, t (B) float32, `cond` of this model for B texts, class_labels (B)
  /// float32 if and only if the config has a class embedding → (B, H, W, out_channels) in the compute dtype. H and W
  /// must be multiples of config.size_multiple(); INVALID_ARGUMENT otherwise.
  Tensor forward(const Tensor& x, const Tensor& t, const Conditioning& cond, const Tensor& class_labels = {},
                 const Tap& tap = {}) const;

 private:
  Tensor as_compute(const Tensor& x) const;
  void check_inputs(const Tensor& x, const Tensor& t, const Conditioning& cond, const Tensor& class_labels) const;
  Tensor embed(const Tensor& t, const Conditioning& cond, const Tensor& class_labels, const Tap& tap) const;

  UNetConfig config_;
  int attention_count_ = 0;
  std::vector<int64_t> hidden_channels_;  // of SkipStack
  Conv2d conv_in_;
  TimestepEmbedding time_embedding_;
  std::optional<TimestepEmbedding> class_embedding_;
  Linear encoder_hid_proj_;
  TextTimeEmbedding add_embedding_;
  std::vector<DownBlock> down_blocks_;
  std::optional<MidBlock> mid_block_;
  std::vector<UpBlock> up_blocks_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
};

}  // namespace df
