// The parameters of one model: declared with their names and shapes in the file, loaded as a stream, given back under
// the same names. Modules hold pointers into the store, which owns everything; so a model is one flat list as well.
#pragma once
#include <deque>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/named_tensor.h"
#include "io/state_source.h"
#include "ops/types.h"

namespace df {

struct LoraDropout;

/// Called after each tensor with the bytes read so far and in all.
using LoadProgress = std::function<void(double done, double total)>;

/// A low-rank term beside one part of a linear layer (nn/lora.h): its output gets scale · (dropout(x)·downᵀ)·upᵀ.
struct LoraTerm {
  int64_t part = 0;                ///< of the outputs: which of the parameter's `names`
  const Weight *down = nullptr;    ///< (rank, in)
  const Weight *up = nullptr;      ///< (out, rank)
  float scale = 1;
  const LoraDropout* dropout = nullptr;
  uint32_t stream = 0;             ///< purpose of the random numbers of its mask
};

/// One parameter of the model. It may be made of several tensors of the file of the same shape, stacked along the first
/// dimension (to_q, to_k and to_v are one product).
struct Parameter {
  std::vector<std::string> names;
  Shape shape;              ///< of each of `names` in the file: (O, I), (O, I, kh, kw), (C), …
  DType dtype = DType::F32; ///< as stored, and given back; f32 for int8 weights and in training
  bool packed = false;      ///< a `weight` for products; otherwise a plain `value`
  Weight weight;
  Tensor value;             ///< (names.size() * C) for vectors, else the shape in the file
  bool linear = false;      ///< a `weight` of a linear layer, which may have LoRA terms
  std::vector<LoraTerm> lora;
};

/// How weights are kept and multiplied.
struct WeightOptions {
  /// Linear layers as int8 (ops::pack_int8), given back multiplied out in float32. For models of linear layers only.
  bool int8 = false;
  Precision precision = Precision::Default;
  /// Training: all parameters are float32 tensors in the engine's layout, and nothing else is kept of them.
  bool trainable = false;
};

class ParameterStore {
 public:
  /// `model` begins every message: "unet", "t5 encoder". Weights are packed for products in `dtype` (f32 or bf16; f16 where the
  /// device computes in it and nothing is trained).
  ParameterStore(std::string model, DType dtype, Device device, WeightOptions options = {});
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  /// Declares the weight of a linear layer (O, I) or convolution (O, I, kh, kw; one name only). The pointer stays valid
  /// as long as the store; the weight is defined after `load`.
  const Weight* weight(const std::vector<std::string>& names, const Shape& shape);
  /// Declares the weight (O, I) of a linear layer, as `weight`, with the LoRA terms that it may get.
  const Parameter* linear(const std::vector<std::string>& names, const Shape& shape);
  /// Declares a bias, norm or table that is kept as it is, in `dtype`.
  const Tensor* tensor(const std::vector<std::string>& names, const Shape& shape, DType dtype = DType::F32);
  /// Files may hold the declared tensor `name` as `other` as well, or instead.
  void alias(const std::string& name, const std::string& other);

  /// Reads every declared tensor: converted, checked to be finite, packed, and its source pages released, one after the
  /// other, so that the peak is the packed model plus one tensor. Heeds cancellation between tensors. Throws one
  /// WEIGHTS error that lists all missing, unexpected and misshapen tensors (before anything is read), or all that are
  /// not finite; CANCELLED; what the source throws. After an error the model has no weights.
  void load(StateSource& source, const LoadProgress& progress);
  /// Takes over the weights of `base`, a loaded model of the same config, dtype and device, and shares their memory; those
  /// with LoRA terms are packed anew with the terms added.
  void load_merged(const ParameterStore& base);
  /// Throws INVALID_ARGUMENT when `load` has not succeeded yet.
  void check_loaded() const;

  /// Every tensor of the file, in the order of declaration, with the dtype it is stored in.
  std::vector<TensorInfo> infos() const;
  /// One tensor in file layout on the CPU, exact in its stored dtype. Throws NOT_FOUND.
  Tensor read(const std::string& name) const;

  // ---- LoRA
  /// The linear layers by the names that diffusers gives the modules ("down_blocks.1.attentions.0.to_q"), with the shapes
  /// (out, in) of their weights, in the order of declaration.
  std::vector<std::pair<std::string, Shape>> linear_layers() const;
  /// Adds a term to the layer `module`; its factors must outlive the model. Throws NOT_FOUND.
  void add_lora(const std::string& module, LoraTerm term);

  // ---- of a trainable model. A state has one tensor per parameter, in the order of declaration, each like its value:
  // values, gradients, moments, averages.
  /// The float32 values, in the engine's layout. They stay where they are until the next `load`.
  std::vector<Tensor> values() const;
  /// The model reads `state` as its values from now on.
  void set_values(const std::vector<Tensor>& state);
  /// Tensor `name` of a state in file layout on the CPU, float32. Throws NOT_FOUND.
  Tensor read_state(const std::string& name, const std::vector<Tensor>& state) const;
  /// Overwrites a state with what a source has under the names of the model. Errors as `load`, after which the state
  /// may be changed in part when tensors were not finite.
  void write_state(StateSource& source, const std::vector<Tensor>& state) const;

  /// All of them, as `infos`.
  std::vector<NamedTensor> state_dict() const;
  /// Bytes of the packed weights and the rest; before `load`, without the padding that packing may add.
  size_t bytes() const;

  /// Another number after every `load`, never used again in this process.
  uint64_t version() const { return version_; }
  DType dtype() const { return dtype_; }
  Precision precision() const { return options_.precision; }
  bool trainable() const { return options_.trainable; }
  Device device() const { return device_; }

 private:
  Parameter& declare(const std::vector<std::string>& names, const Shape& shape);
  std::string source_name(const std::string& name, const std::unordered_map<std::string, bool>& present) const;
  double check_source(const StateSource& source, std::unordered_map<std::string, bool>& present) const;
  using Store = std::function<void(size_t index, const Tensor& plain)>;
  void read_source(StateSource& source, const LoadProgress& progress, const Store& store) const;
  Tensor join(const Parameter& p, const std::vector<Tensor>& parts, std::vector<std::string>& not_finite) const;
  void keep(Parameter& p, const Tensor& plain) const;
  std::pair<size_t, int64_t> find(const std::string& name) const;
  Tensor unpack(const Parameter& p) const;
  void clear();

  std::string model_;
  DType dtype_;
  Device device_;
  WeightOptions options_;
  bool loaded_ = false;
  uint64_t version_ = 0;
  std::deque<Parameter> parameters_;                                        // a deque: pointers stay valid
  std::unordered_map<std::string, std::pair<size_t, int64_t>> index_;       // name → parameter, part
  std::unordered_map<std::string, std::string> alias_;                      // other → declared name
};

/// Keeps at most `limit` names: "a, b, c and 7 more".
std::string list_names(const std::vector<std::string>& names, size_t limit = 20);

}  // namespace df
