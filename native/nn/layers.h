// The layers with parameters. Weights are declared as "<name>.weight", biases as "<name>.bias".
#pragma once
#include <string>
#include <vector>

#include "nn/parameters.h"
#include "ops/types.h"

namespace df {

class Linear {
 public:
  Linear(ParameterStore& p, const std::string& name, int64_t in, int64_t out, bool bias = true)
      : Linear(p, std::vector<std::string>{name}, in, out, bias) {}
  /// Several layers of the same input as one product: y = (…, names.size() * out), in the order of `names`.
  Linear(ParameterStore& p, const std::vector<std::string>& names, int64_t in, int64_t out, bool bias = true);
  /// x (…, in) → (…, out); `residual` is added, and so are the layer's LoRA terms.
  Tensor forward(const Tensor& x, const Tensor& residual = {}, const Tensor& into = {}) const;

 private:
  const Parameter* parameter_;
  const Tensor* bias_ = nullptr;
};

/// Stride 1, padding kernel / 2; the algorithm follows the precision of the model.
class Conv2d {
 public:
  Conv2d(ParameterStore& p, const std::string& name, int64_t in, int64_t out, int kernel);
  /// x (N, H, W, in) → (N, H, W, out) = (conv(x) + residual) * scale.
  Tensor forward(const Tensor& x, const Tensor& residual = {}, float scale = 1, const Tensor& into = {}) const;

 private:
  const Weight* weight_;
  const Tensor* bias_;
  Conv2dParams params_;
};

class GroupNorm {
 public:
  GroupNorm(ParameterStore& p, const std::string& name, int64_t channels, int groups, float eps);
  /// x (N, …, C) → activation(norm(x)).
  Tensor forward(const Tensor& x, Activation activation = Activation::None) const;
  /// x (N, …, C), scale_shift (N, 2C) → activation(norm(x) * (1 + scale) + shift).
  Tensor forward(const Tensor& x, const Tensor& scale_shift, Activation activation) const;

 private:
  GroupNormParams params(Activation activation) const;
  const Tensor *gamma_, *beta_;
  int groups_;
  float eps_;
};

/// torch.nn.LayerNorm with its default eps of 1e-5.
class LayerNorm {
 public:
  LayerNorm(ParameterStore& p, const std::string& name, int64_t channels);
  Tensor forward(const Tensor& x) const;

 private:
  const Tensor *gamma_, *beta_;
};

}  // namespace df
