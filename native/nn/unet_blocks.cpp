#include "nn/unet_blocks.h"

#include "autograd/tape.h"

namespace df {
namespace {

ResnetBlockParams resnet_params(const UNetConfig& c, int64_t in, int64_t out, float output_scale_factor) {
  ResnetBlockParams p;
  p.in_channels = in;
  p.out_channels = out;
  p.embedding_dim = c.time_embedding_dim;
  p.groups = c.norm_num_groups;
  p.eps = c.norm_eps;
  p.activation = c.act_fn;
  p.output_scale_factor = output_scale_factor;
  return p;
}

ResnetBlockParams resampling(ResnetBlockParams p, Resample mode) {
  p.resample = mode;
  return p;
}

AttentionBlockParams attention_params(const UNetConfig& c, int level, bool only_text) {
  AttentionBlockParams p;
  p.channels = c.block_out_channels[level];
  p.text_channels = c.cross_attention_dim;
  p.head_dim = c.attention_head_dim[level];
  p.groups = c.norm_num_groups;
  p.only_text = only_text;
  p.norm_text = c.cross_attention_norm;
  return p;
}

Tensor run(const ResnetBlock& block, const Tensor& x, const BlockInputs& in, const Tensor& into = {}) {
  if (!in.checkpointing) return block.forward(x, in.embedding, into);
  return checkpoint(into, [&block, x, e = in.embedding](const Tensor& to) { return block.forward(x, e, to); });
}

Tensor run(const AttentionBlock& block, const Tensor& x, const BlockInputs& in, const Tensor& into = {}) {
  const KeyValue& text = in.cond.text[size_t(block.index())];
  if (!in.checkpointing) return block.forward(x, text, into);
  return checkpoint(into, [&block, x, text](const Tensor& to) { return block.forward(x, text, to); });
}

std::string child(const std::string& block, const char* list, int64_t i) {
  return block + "." + list + "." + std::to_string(i);
}

}  // namespace

Tensor tapped(const Tap& tap, const std::string& module, Tensor output) {
  if (tap) tap(module, output);
  return output;
}

DownBlock::DownBlock(ParameterStore& p, const UNetConfig& c, int level, int& attention_count)
    : out_channels_(c.block_out_channels[level]) {
  const std::string name = "down_blocks." + std::to_string(level);
  int64_t in = c.block_out_channels[level > 0 ? level - 1 : 0];
  for (int64_t i = 0; i < c.layers_per_block[level]; i++, in = out_channels_) {
    resnets_.emplace_back(p, child(name, "resnets", i), resnet_params(c, in, out_channels_, c.resnet_out_scale_factor));
    if (c.down_attention[level])
      attentions_.emplace_back(p, child(name, "attentions", i),
                               attention_params(c, level, c.only_cross_attention[level]), attention_count++);
  }
  if (level + 1 < c.levels())
    downsampler_.emplace(p, child(name, "downsamplers", 0),
                         resampling(resnet_params(c, out_channels_, out_channels_, c.resnet_out_scale_factor),
                                    Resample::AverageDown2));
}

Tensor DownBlock::forward(Tensor x, const BlockInputs& in, SkipStack& skips) const {
  const int64_t n = x.dim(0), height = x.dim(1), width = x.dim(2);
  const DType dtype = x.dtype();
  const Device device = x.device();
  for (size_t i = 0; i < resnets_.size(); i++) {
    const Tensor skip = skips.push(n, height, width, out_channels_, dtype, device);
    x = tapped(in.tap, resnets_[i].name(), run(resnets_[i], x, in, attentions_.empty() ? skip : Tensor()));
    if (attentions_.empty()) continue;
    const AttentionBlock& attention = attentions_[i];
    x = tapped(in.tap, attention.name(), run(attention, x, in, skip));
  }
  if (downsampler_) {
    const Tensor skip = skips.push(n, height / 2, width / 2, out_channels_, dtype, device);
    x = tapped(in.tap, downsampler_->name(), run(*downsampler_, x, in, skip));
  }
  return x;
}

MidBlock::MidBlock(ParameterStore& p, const UNetConfig& c, int& attention_count)
    : resnet_0_(p, "mid_block.resnets.0",
                resnet_params(c, c.block_out_channels.back(), c.block_out_channels.back(), c.mid_block_scale_factor)),
      attention_(p, "mid_block.attentions.0", attention_params(c, c.levels() - 1, c.mid_block_only_cross_attention),
                 attention_count++),
      resnet_1_(p, "mid_block.resnets.1",
                resnet_params(c, c.block_out_channels.back(), c.block_out_channels.back(), c.mid_block_scale_factor)) {}

Tensor MidBlock::forward(Tensor x, const BlockInputs& in, const Tensor& into) const {
  x = tapped(in.tap, resnet_0_.name(), run(resnet_0_, x, in));
  x = tapped(in.tap, attention_.name(), run(attention_, x, in));
  x = tapped(in.tap, resnet_1_.name(), run(resnet_1_, x, in, into));
  return tapped(in.tap, "mid_block", x);
}

UpBlock::UpBlock(ParameterStore& p, const UNetConfig& c, int index, int& attention_count,
                 std::vector<int64_t>& hidden_channels) {
  const std::string name = "up_blocks." + std::to_string(index);
  const int last = c.levels() - 1, level = last - index;
  const int64_t out = c.block_out_channels[level];
  const int64_t finer = c.block_out_channels[level > 0 ? level - 1 : 0];
  const int64_t layers = c.layers_per_block[level] + 1;
  int64_t hidden = c.block_out_channels[index > 0 ? level + 1 : last];
  for (int64_t i = 0; i < layers; i++, hidden = out) {
    const int64_t skip = i == layers - 1 ? finer : out;
    hidden_channels.insert(hidden_channels.begin(), hidden);
    resnets_.emplace_back(p, child(name, "resnets", i),
                          resnet_params(c, hidden + skip, out, c.resnet_out_scale_factor));
    if (c.up_attention[index])
      attentions_.emplace_back(p, child(name, "attentions", i),
                               attention_params(c, level, c.only_cross_attention[level]), attention_count++);
  }
  if (index < last)
    upsampler_.emplace(p, child(name, "upsamplers", 0),
                       resampling(resnet_params(c, out, out, c.resnet_out_scale_factor), Resample::NearestUp2));
}

Tensor UpBlock::forward(const BlockInputs& in, SkipStack& skips) const {
  Tensor x;
  for (size_t i = 0; i < resnets_.size(); i++) {
    Tensor joined = skips.pop();  // (B, H, W, hidden + skip)
    const Tensor into = i + 1 < resnets_.size() ? skips.hidden() : Tensor();
    x = run(resnets_[i], joined, in, attentions_.empty() ? into : Tensor());
    joined = Tensor();  // freed before the attention
    x = tapped(in.tap, resnets_[i].name(), x);
    if (attentions_.empty()) continue;
    const AttentionBlock& attention = attentions_[i];
    x = tapped(in.tap, attention.name(), run(attention, x, in, into));
  }
  if (upsampler_) x = tapped(in.tap, upsampler_->name(), run(*upsampler_, x, in, skips.hidden()));
  return x;
}

}  // namespace df
