// LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1): a frozen linear layer W becomes
// W + alpha/rank · up·down. While training, the product goes beside the layer; for sampling it is added to the weights.
#pragma once
#include "nn/module.h"

namespace df {

/// Which samples the masks of the dropout are for. Stateless: a sample's mask follows from the key alone.
struct LoraDropout {
  float probability = 0;
  uint64_t seed = 0;
  std::vector<uint64_t> samples;  ///< global index of each item of the batch; empty: no dropout
};

struct LoraOptions {
  int64_t rank = 16;
  double alpha = 16;                 ///< the product counts alpha / rank times
  double dropout = 0;                ///< probability that an input of `down` is 0, in [0, 1); the rest count 1 / (1 - it)
  std::vector<std::string> targets;  ///< layers: whole names, or ends that begin after a dot, as PEFT's target_modules
};

/// The trained factors of one model, in float32: parameters "MODULE.lora_A.weight" (rank, in) and "MODULE.lora_B.weight"
/// (out, rank).
class Lora {
 public:
  /// Adds the terms to the linear layers of `model`, of which it becomes a part: it must live as long, and stay in place.
  /// `stream`: the first of 2^16 purposes of random numbers that nothing else uses. Throws INVALID_ARGUMENT for options out
  /// of range, and for a target that is no layer of the model.
  Lora(Module& model, const LoraOptions& options, uint32_t stream);
  Lora(const Lora&) = delete;
  Lora& operator=(const Lora&) = delete;
  ParameterStore& store() { return factors_; }
  /// Until `end_dropout`, forward passes have the dropout of these samples, one per item of the batch.
  void begin_dropout(uint64_t seed, std::vector<uint64_t> samples);
  void end_dropout() { dropout_.samples.clear(); }

 private:
  ParameterStore factors_;
  LoraDropout dropout_;
};

/// residual + Σ terms of the layer for x (…, in) → (…, all outputs of the layer), in the dtype of x.
Tensor low_rank_terms(const Parameter& layer, const Tensor& x, const Tensor& residual);

/// 1 with probability 1 - dropout.probability, else 0, in `dtype`: item i by Philox with (seed, stream, samples[i]).
Tensor dropout_mask(const Shape& shape, DType dtype, Device device, const LoraDropout& dropout, uint32_t stream);

/// Two factors in float32: down (rank, in), up (out, rank).
struct LowRank {
  Tensor down, up;
  float scale = 1;
};
/// weight + scale · up·down, for weight (out, in) float32; each element rounded once.
Tensor add_low_rank(const Tensor& weight, const LowRank& product);

/// The factors of a layer of a file.
struct LoraProduct {
  std::string module;
  LowRank factors;  ///< on the CPU
};

/// A model's weights with products added in float32. A negative scale takes a product out again.
class MergedSource : public StateSource {
 public:
  /// Throws WEIGHTS, naming all of them, for modules that the source lacks or has in another shape. Products with a scale
  /// of 0 are ignored.
  MergedSource(StateSource& base, const std::vector<LoraProduct>& products);
  std::vector<std::string> names() const override { return base_.names(); }
  TensorInfo describe(const std::string& name) const override;
  Tensor read(const std::string& name) override;
  void prefetch(const std::string& name) override { base_.prefetch(name); }
  void release(const std::string& name) override { base_.release(name); }

 private:
  StateSource& base_;
  std::unordered_map<std::string, std::vector<LowRank>> products_;  // by the name of the weight
};

}  // namespace df
