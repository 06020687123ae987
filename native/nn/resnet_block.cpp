#include "nn/resnet_block.h"

#include "ops/ops.h"

namespace df {

ResnetBlock::ResnetBlock(ParameterStore& p, const std::string& name, const ResnetBlockParams& c)
    : name_(name),
      activation_(c.activation),
      output_scale_(1 / c.output_scale_factor),
      resample_(c.resample),
      norm1_(p, name + ".norm1", c.in_channels, c.groups, c.eps),
      conv1_(p, name + ".conv1", c.in_channels, c.out_channels, 3),
      time_emb_proj_(p, name + ".time_emb_proj", c.embedding_dim, 2 * c.out_channels),
      norm2_(p, name + ".norm2", c.out_channels, c.groups, c.eps),
      conv2_(p, name + ".conv2", c.out_channels, c.out_channels, 3) {
  if (c.in_channels != c.out_channels)
    conv_shortcut_.emplace(p, name + ".conv_shortcut", c.in_channels, c.out_channels, 1);
}

Tensor ResnetBlock::forward(const Tensor& x, const Tensor& embedding, const Tensor& into) const {
  Tensor h = norm1_.forward(x, activation_);                       // (N, H, W, in)
  if (resample_) h = ops::resample(h, *resample_);                 // (N, H', W', in)
  h = conv1_.forward(h);                                           // (N, H', W', out)
  const Tensor scale_shift = time_emb_proj_.forward(embedding);    // (N, 2 out)
  h = norm2_.forward(h, scale_shift, activation_);
  Tensor shortcut = resample_ ? ops::resample(x, *resample_) : x;  // (N, H', W', in)
  if (conv_shortcut_) shortcut = conv_shortcut_->forward(shortcut);
  return conv2_.forward(h, shortcut, output_scale_, into);         // (N, H', W', out)
}

}  // namespace df
