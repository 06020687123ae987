// Random parameters at the beginning of training from scratch.
#pragma once
#include <functional>
#include <map>

#include "io/state_source.h"
#include "nn/t5_config.h"

namespace df {

/// Draws every tensor by its name, so that the order of reading does not matter.
class InitialSource : public StateSource {
 public:
  struct Rule {
    enum class Kind { Constant, Uniform, Normal } kind = Kind::Constant;
    double value = 0;  ///< the constant, the bound, or the standard deviation
  };
  InitialSource(const std::vector<TensorInfo>& tensors, const std::function<Rule(const TensorInfo&)>& rule,
                uint64_t seed);
  std::vector<std::string> names() const override;
  TensorInfo describe(const std::string& name) const override;
  Tensor read(const std::string& name) override;

 private:
  struct Entry {
    TensorInfo info;
    Rule rule;
  };
  std::map<std::string, Entry> tensors_;
  uint64_t seed_;
};

/// As diffusers leaves a new UNet2DConditionModel: torch.nn.Linear and Conv2d draw weight and bias from U(±1/√fan_in)
/// (kaiming_uniform with a = √5), norms are 1 and 0, the positional embedding of the pooling is N(0, 1/width)
/// (embeddings.py, AttentionPooling). The last convolution is no exception.
InitialSource initial_unet(const std::vector<TensorInfo>& tensors, uint64_t seed);
/// LoRA factors as PEFT begins them (tuners/lora/layer.py, reset_lora_parameters): the lower ones as torch.nn.Linear, the
/// upper ones 0.
InitialSource initial_lora(const std::vector<TensorInfo>& tensors, uint64_t seed);
/// transformers T5PreTrainedModel._init_weights with initializer_factor 1.
InitialSource initial_t5(const std::vector<TensorInfo>& tensors, const T5Config& config, uint64_t seed);

}  // namespace df
