// The networks of test/golden, their inputs and their gradients.
#pragma once
#include <map>
#include <string>

#include "autograd/tape.h"
#include "golden.h"
#include "nn/t5_encoder.h"
#include "nn/unet.h"

namespace df::test {

struct GoldenUNet {
  const char* name;    // of NAME_io, NAME_acts, NAME_grads
  const char* folder;  // with config.json and diffusion_pytorch_model.safetensors
};
inline constexpr GoldenUNet kGoldenUNets[] = {{"unet_stage1", "tiny-if-I/unet"},
                                              {"unet_stage2", "tiny-if-II/unet"},
                                              {"unet_cross_only", "unet_cross_only"}};

UNetConfig golden_unet_config(const std::string& folder);
SafetensorsSource golden_unet_source(const std::string& folder);
T5Config golden_t5_config();
SafetensorsSource golden_t5_source();

/// The network of realistic widths; its weights are drawn, not stored (test/golden/wide.json).
UNetConfig wide_config();
TensorMapSource wide_source();

/// (n) float32 or int32 values of a recorded int64 tensor.
Tensor float_vector(const Tensor& ids);
Tensor int32_of(const Tensor& ids);

/// The recorded inputs run through our network: (B, H, W, C) in the compute dtype.
Tensor run_golden_unet(const UNet& unet, const SafetensorsFile& io, const Tap& tap = {});
/// (B, T, d_model) in the compute dtype.
Tensor run_golden_t5(const T5Encoder& encoder, const SafetensorsFile& io);

/// The gradients of a trainable model, in file layout by name: watched by `tape` from construction on.
class WatchedGradients {
 public:
  WatchedGradients(const ParameterStore& store, Tape& tape);
  std::map<std::string, Tensor> in_file_layout() const;
  const std::vector<Tensor>& state() const { return gradients_; }

 private:
  const ParameterStore& store_;
  std::vector<Tensor> gradients_;
};

/// Gradients of mean(out * loss_weight) at the recorded inputs.
std::map<std::string, Tensor> golden_unet_gradients(UNet& unet, const SafetensorsFile& io);
std::map<std::string, Tensor> golden_t5_gradients(T5Encoder& encoder, const SafetensorsFile& io);

/// A record is called NAME, or NAME@k when it holds flatten(t)[::k].
struct Record {
  std::string name;
  int64_t stride;  // 0: the whole tensor in its shape
};
Record parse_record(const std::string& record);
Tensor thinned(const Tensor& t, const Record& record);

}  // namespace df::test
