// A model: a set of parameters with a forward function. UNet and T5Encoder are the models.
#pragma once
#include "nn/parameters.h"

namespace df {

class Module {
 public:
  /// Loads all weights; see ParameterStore::load for the errors. `progress` gets bytes read and bytes in all.
  void load(StateSource& source, const LoadProgress& progress = {}) { parameters_.load(source, progress); }
  /// Names, shapes in the file and stored dtypes of all tensors: known before anything is loaded.
  std::vector<TensorInfo> parameters() const { return parameters_.infos(); }
  /// One tensor, or all, in file layout on the CPU. Exact in the stored dtype.
  Tensor parameter(const std::string& name) const { return parameters_.read(name); }
  std::vector<NamedTensor> state_dict() const { return parameters_.state_dict(); }
  /// Values, gradients and the rest of a trainable model.
  ParameterStore& store() { return parameters_; }
  const ParameterStore& store() const { return parameters_; }
  size_t weight_bytes() const { return parameters_.bytes(); }
  /// Recording, blocks keep only their inputs and are computed again on the way back (see checkpoint).
  void set_checkpointing(bool on) { checkpointing_ = on; }
  /// What the products are computed in.
  DType dtype() const { return parameters_.dtype(); }
  Device device() const { return parameters_.device(); }

 protected:
  Module(std::string name, DType dtype, Device device, WeightOptions options = {})
      : parameters_(std::move(name), dtype, device, options) {}
  ParameterStore parameters_;
  bool checkpointing_ = false;
};

}  // namespace df
