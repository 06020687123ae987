#include "nn/layers.h"

#include "nn/lora.h"
#include "ops/ops.h"

namespace df {
namespace {

std::vector<std::string> with_suffix(const std::vector<std::string>& names, const char* suffix) {
  std::vector<std::string> full;
  for (const std::string& name : names) full.push_back(name + suffix);
  return full;
}

}  // namespace

Linear::Linear(ParameterStore& p, const std::vector<std::string>& names, int64_t in, int64_t out, bool bias)
    : parameter_(p.linear(with_suffix(names, ".weight"), {out, in})) {
  if (bias) bias_ = p.tensor(with_suffix(names, ".bias"), {out});
}

Tensor Linear::forward(const Tensor& x, const Tensor& residual, const Tensor& into) const {
  const Tensor added = parameter_->lora.empty() ? residual : low_rank_terms(*parameter_, x, residual);
  return ops::linear(x, parameter_->weight, {.bias = bias_ ? *bias_ : Tensor(), .residual = added}, into);
}

Conv2d::Conv2d(ParameterStore& p, const std::string& name, int64_t in, int64_t out, int kernel)
    : weight_(p.weight({name + ".weight"}, {out, in, kernel, kernel})),
      bias_(p.tensor({name + ".bias"}, {out})),
      params_{.stride = 1, .padding = kernel / 2, .algorithm = conv_algorithm(p.precision())} {}

Tensor Conv2d::forward(const Tensor& x, const Tensor& residual, float scale, const Tensor& into) const {
  const Epilogue epilogue{.bias = *bias_, .residual = residual, .scale = scale};
  return ops::conv2d(x, *weight_, params_, epilogue, into);
}

GroupNorm::GroupNorm(ParameterStore& p, const std::string& name, int64_t channels, int groups, float eps)
    : gamma_(p.tensor({name + ".weight"}, {channels})),
      beta_(p.tensor({name + ".bias"}, {channels})),
      groups_(groups),
      eps_(eps) {}

GroupNormParams GroupNorm::params(Activation activation) const {
  GroupNormParams p;
  p.groups = groups_;
  p.eps = eps_;
  p.gamma = *gamma_;
  p.beta = *beta_;
  p.activation = activation;
  return p;
}

Tensor GroupNorm::forward(const Tensor& x, Activation activation) const {
  return ops::group_norm(x, params(activation));
}

Tensor GroupNorm::forward(const Tensor& x, const Tensor& scale_shift, Activation activation) const {
  const int64_t channels = x.dim(-1);
  GroupNormParams p = params(activation);
  p.scale = scale_shift.slice_last(0, channels);
  p.shift = scale_shift.slice_last(channels, channels);
  return ops::group_norm(x, p);
}

LayerNorm::LayerNorm(ParameterStore& p, const std::string& name, int64_t channels)
    : gamma_(p.tensor({name + ".weight"}, {channels})), beta_(p.tensor({name + ".bias"}, {channels})) {}

Tensor LayerNorm::forward(const Tensor& x) const { return ops::layer_norm(x, *gamma_, *beta_, 1e-5f); }

}  // namespace df
