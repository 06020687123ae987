#include "nn/attention_block.h"

#include <cmath>

#include "ops/ops.h"

namespace df {
namespace {

// diffusers Attention.__init__: `eps` and `cross_attention_norm_num_groups` are left at their defaults.
constexpr float kEps = 1e-5f;
constexpr int kTextGroups = 32;

std::vector<std::string> image_projections(const std::string& name, bool only_text) {
  if (only_text) return {name + ".to_q"};
  return {name + ".to_q", name + ".to_k", name + ".to_v"};
}

}  // namespace

AttentionBlock::AttentionBlock(ParameterStore& p, const std::string& name, const AttentionBlockParams& c, int index)
    : name_(name),
      index_(index),
      channels_(c.channels),
      heads_(int(c.channels / c.head_dim)),
      scale_(float(1 / std::sqrt(double(c.head_dim)))),
      only_text_(c.only_text),
      group_norm_(p, name + ".group_norm", c.channels, c.groups, kEps),
      to_qkv_(p, image_projections(name, c.only_text), c.channels, c.channels),
      add_kv_proj_(p, {name + ".add_k_proj", name + ".add_v_proj"}, c.text_channels, c.channels),
      to_out_(p, name + ".to_out.0", c.channels, c.channels) {
  if (c.norm_text) norm_cross_.emplace(p, name + ".norm_cross", c.text_channels, kTextGroups, kEps);
}

KeyValue AttentionBlock::prepare(const Tensor& text) const {
  const Tensor kv = add_kv_proj_.forward(norm_cross_ ? norm_cross_->forward(text) : text);  // (B, T, 2C)
  return {kv.slice_last(0, channels_), kv.slice_last(channels_, channels_)};
}

// (B, HW, C) before the output projection; in a function of its own so that q, k and v are freed here.
Tensor AttentionBlock::attend(const Tensor& tokens, const KeyValue& text) const {
  const Tensor qkv = to_qkv_.forward(group_norm_.forward(tokens));  // (B, HW, 3C), or C with only_text
  AttentionParams params;
  params.heads = heads_;
  params.scale = scale_;
  params.segments = {text};
  if (!only_text_)
    params.segments.push_back({qkv.slice_last(channels_, channels_), qkv.slice_last(2 * channels_, channels_)});
  return ops::attention(qkv.slice_last(0, channels_), params);
}

Tensor AttentionBlock::forward(const Tensor& x, const KeyValue& text, const Tensor& into) const {
  const Shape flat{x.dim(0), x.dim(1) * x.dim(2), channels_};
  const Tensor tokens = x.reshape(flat);
  const Tensor attended = attend(tokens, text);
  return to_out_.forward(attended, tokens, into.defined() ? into.reshape(flat) : Tensor()).reshape(x.shape());
}

}  // namespace df
