#include "nn/unet.h"

#include "core/error.h"
#include "ops/ops.h"

namespace df {
namespace {

TimestepEmbedding::Params timestep_params(const UNetConfig& c, Activation post_activation) {
  TimestepEmbedding::Params p;
  p.sinusoid_dim = c.block_out_channels[0];
  p.embedding_dim = c.time_embedding_dim;
  p.flip_sin_to_cos = c.flip_sin_to_cos;
  p.freq_shift = c.freq_shift;
  p.activation = c.act_fn;
  p.post_activation = post_activation;
  return p;
}

}  // namespace

UNet::UNet(const UNetConfig& c, DType dtype, Device device, const WeightOptions& options)
    : Module("unet", dtype, device, options),
      config_(c),
      conv_in_(parameters_, "conv_in", c.in_channels, c.block_out_channels[0], 3),
      time_embedding_(parameters_, "time_embedding", timestep_params(c, c.timestep_post_act)),
      encoder_hid_proj_(parameters_, "encoder_hid_proj", c.encoder_hid_dim, c.cross_attention_dim),
      add_embedding_(parameters_, "add_embedding", c.encoder_hid_dim, c.time_embedding_dim,
                     c.addition_embed_type_num_heads),
      conv_norm_out_(parameters_, "conv_norm_out", c.block_out_channels[0], c.norm_num_groups, c.norm_eps),
      conv_out_(parameters_, "conv_out", c.block_out_channels[0], c.out_channels, 3) {
  if (c.class_embed)
    class_embedding_.emplace(parameters_, "class_embedding", timestep_params(c, Activation::None));
  for (int i = 0; i < c.levels(); i++) down_blocks_.emplace_back(parameters_, c, i, attention_count_);
  mid_block_.emplace(parameters_, c, attention_count_);
  for (int i = 0; i < c.levels(); i++) up_blocks_.emplace_back(parameters_, c, i, attention_count_, hidden_channels_);
}

Tensor UNet::as_compute(const Tensor& x) const { return x.dtype() == dtype() ? x : ops::copy(x, dtype()); }

Conditioning UNet::prepare(const Tensor& text, const Tensor& pooled_text) const {
  parameters_.check_loaded();
  const Tensor& pooled = pooled_text.defined() ? pooled_text : text;
  for (const Tensor& t : {text, pooled})
    DF_CHECK(t.defined() && t.shape().rank() == 3 && t.dim(0) == text.dim(0) && t.dim(2) == config_.encoder_hid_dim,
             "unet: text must be (batch, tokens, %lld), got %s", static_cast<long long>(config_.encoder_hid_dim),
             t.shape().str().c_str());
  Conditioning cond;
  cond.pooled = add_embedding_.forward(as_compute(pooled));                // (B, E)
  const Tensor projected = encoder_hid_proj_.forward(as_compute(text));   // (B, T, cross_attention_dim)
  cond.text.resize(size_t(attention_count_));
  const auto prepare_block = [&](const AttentionBlock& a) { cond.text[size_t(a.index())] = a.prepare(projected); };
  for (const DownBlock& block : down_blocks_)
    for (const AttentionBlock& a : block.attentions()) prepare_block(a);
  prepare_block(mid_block_->attention());
  for (const UpBlock& block : up_blocks_)
    for (const AttentionBlock& a : block.attentions()) prepare_block(a);
  return cond;
}

void UNet::check_inputs(const Tensor& x, const Tensor& t, const Conditioning& cond, const Tensor& class_labels) const {
  parameters_.check_loaded();
  DF_CHECK(x.defined() && x.shape().rank() == 4 && x.dim(3) == config_.in_channels,
           "unet: x must be (batch, height, width, %lld), got %s", static_cast<long long>(config_.in_channels),
           x.shape().str().c_str());
  const long long multiple = config_.size_multiple(), batch = x.dim(0);
  DF_CHECK(x.dim(1) > 0 && x.dim(2) > 0 && x.dim(1) % multiple == 0 && x.dim(2) % multiple == 0,
           "unet: height and width must be multiples of %lld, got %lld×%lld", multiple,
           static_cast<long long>(x.dim(1)), static_cast<long long>(x.dim(2)));
  DF_CHECK(t.defined() && t.shape() == Shape{batch} && t.dtype() == DType::F32,
           "unet: t must be (%lld) f32, got %s %s", batch, t.shape().str().c_str(), dtype_name(t.dtype()));
  DF_CHECK(cond.pooled.defined() && cond.text.size() == size_t(attention_count_),
           "unet: cond must come from prepare of this model (%d attention blocks), got %zu", attention_count_,
           cond.text.size());
  DF_CHECK(cond.batch() == batch, "unet: cond must hold %lld texts, got %lld", batch,
           static_cast<long long>(cond.batch()));
  DF_CHECK(class_labels.defined() == config_.class_embed, "unet: class_labels (the noise level) must %s for this model",
           config_.class_embed ? "be given" : "not be given");
  if (class_labels.defined())
    DF_CHECK(class_labels.shape() == Shape{batch} && class_labels.dtype() == DType::F32,
             "unet: class_labels must be (%lld) f32, got %s %s", batch, class_labels.shape().str().c_str(),
             dtype_name(class_labels.dtype()));
}

// (B, E): what the time_emb_proj of all residual blocks read.
Tensor UNet::embed(const Tensor& t, const Conditioning& cond, const Tensor& class_labels, const Tap& tap) const {
  Tensor e = tapped(tap, "time_embedding", time_embedding_.forward(t));
  if (class_embedding_)
    e = ops::axpby(1, e, 1, tapped(tap, "class_embedding", class_embedding_->forward(class_labels)));
  e = ops::axpby(1, e, 1, tapped(tap, "add_embedding", cond.pooled));
  if (config_.time_embedding_act_fn != Activation::None)
    e = tapped(tap, "time_embed_act", ops::activation(e, config_.time_embedding_act_fn));
  // every residual block would activate the same embedding
  return config_.resnet_skip_time_act ? e : ops::activation(e, config_.act_fn);
}

Tensor UNet::forward(const Tensor& x, const Tensor& t, const Conditioning& cond, const Tensor& class_labels,
                     const Tap& tap) const {
  check_inputs(x, t, cond, class_labels);
  const Tensor embedding = embed(t, cond, class_labels, tap);
  const BlockInputs in{embedding, cond, tap, checkpointing_};
  SkipStack skips(hidden_channels_);
  Tensor h = skips.push(x.dim(0), x.dim(1), x.dim(2), config_.block_out_channels[0], dtype(), device());
  h = tapped(tap, "conv_in", conv_in_.forward(as_compute(x), {}, 1, h));  // (B, H, W, C0)
  for (const DownBlock& block : down_blocks_) h = block.forward(std::move(h), in, skips);
  mid_block_->forward(std::move(h), in, skips.hidden());
  for (size_t i = 0; i < up_blocks_.size(); i++) {
    h = up_blocks_[i].forward(in, skips);
    if (tap) tap("up_blocks." + std::to_string(i), h);
  }
  h = tapped(tap, "conv_act", conv_norm_out_.forward(h, config_.act_fn));
  return tapped(tap, "conv_out", conv_out_.forward(h));                  // (B, H, W, out_channels)
}

}  // namespace df
