#include "golden_models.h"

#include <cmath>

#include "core/random.h"
#include "ops/ops.h"
#include "tensors.h"

namespace df::test {
namespace {

// The gradient of mean(out * weight) by out.
Tensor output_gradient(const Tensor& weight, DType dtype) {
  return ops::copy(ops::axpby(float(1 / double(weight.numel())), weight, 0, weight), dtype);
}

}  // namespace

const char* name_of(Precision precision) {
  return precision == Precision::Exact ? "exact" : precision == Precision::Fast ? "fast" : "default";
}

UNetConfig golden_unet_config(const std::string& folder) {
  return UNetConfig::from_json(normalised_unet_config(golden_json(folder + "/config.json")));
}

SafetensorsSource golden_unet_source(const std::string& folder) {
  return SafetensorsSource({golden_path(folder + "/diffusion_pytorch_model.safetensors")});
}

T5Config golden_t5_config() {
  return T5Config::from_json(normalised_t5_config(golden_json("tiny-if-I/text_encoder/config.json")));
}

SafetensorsSource golden_t5_source() {
  return SafetensorsSource({golden_path("tiny-if-I/text_encoder/model.safetensors")});
}

UNetConfig wide_config() {
  return UNetConfig::from_json(normalised_unet_config(*golden_json("wide.json").find("config")));
}

TensorMapSource wide_source() {
  const Json recipe = golden_json("wide.json");
  TorchGenerator generator(uint64_t(recipe.find("seed")->integer()));
  std::map<std::string, Tensor> weights;
  for (const Json& parameter : recipe.find("parameters")->items()) {
    const std::string& name = parameter.items()[0].string();
    Shape shape;
    for (const Json& d : parameter.items()[1].items()) shape.push_back(d.integer());
    Tensor t = Tensor::empty(shape, DType::F32, kCpu);
    generator.normal(t.data<float>(), t.numel());
    const bool bias = name.size() > 4 && name.compare(name.size() - 4, 4, "bias") == 0;
    const float root = float(std::sqrt(double(t.numel() / shape[0])));
    for (int64_t i = 0; i < t.numel(); i++) {
      float& v = t.data<float>()[i];
      v = shape.rank() >= 2 ? v / root : bias ? v * 0.1f : 1 + v * 0.1f;
    }
    weights[name] = t;
  }
  return TensorMapSource(weights);
}

Tensor float_vector(const Tensor& ids) {
  Tensor t = Tensor::empty({ids.numel()}, DType::F32, kCpu);
  for (int64_t i = 0; i < ids.numel(); i++) t.data<float>()[i] = float(ids.data<int64_t>()[i]);
  return t;
}

Tensor int32_of(const Tensor& ids) {
  Tensor t = Tensor::empty(ids.shape(), DType::I32, kCpu);
  for (int64_t i = 0; i < ids.numel(); i++) t.data<int32_t>()[i] = int32_t(ids.data<int64_t>()[i]);
  return t;
}

Tensor run_golden_unet(const UNet& unet, const SafetensorsFile& io, const Tap& tap) {
  const auto here = [&](const Tensor& t) { return on(t, unet.device()); };
  const Tensor x = ops::nchw_to_nhwc(here(io.tensor("sample")), DType::F32);
  const Tensor labels = io.contains("class_labels.i64") ? float_vector(io.tensor("class_labels.i64")) : Tensor();
  const Conditioning cond = unet.prepare(here(io.tensor("encoder_hidden_states")));
  return unet.forward(x, here(float_vector(io.tensor("timestep.i64"))), cond, here(labels), tap);
}

Tensor run_golden_t5(const T5Encoder& encoder, const SafetensorsFile& io) {
  return encoder.forward(int32_of(io.tensor("input_ids.i64")), int32_of(io.tensor("attention_mask.i64")));
}

WatchedGradients::WatchedGradients(const ParameterStore& store, Tape& tape) : store_(store) {
  for (const Tensor& value : store.values()) {
    gradients_.push_back(Tensor::zeros(value.shape(), DType::F32, value.device()));
    tape.watch(value, gradients_.back());
  }
}

std::map<std::string, Tensor> WatchedGradients::in_file_layout() const {
  std::map<std::string, Tensor> all;
  for (const TensorInfo& info : store_.infos()) all[info.name] = store_.read_state(info.name, gradients_);
  return all;
}

std::map<std::string, Tensor> golden_unet_gradients(UNet& unet, const SafetensorsFile& io) {
  Tape tape;
  const WatchedGradients gradients(unet.store(), tape);
  Tensor out;
  {
    RecordScope scope(&tape);
    out = run_golden_unet(unet, io);
  }
  const Tensor weight = ops::nchw_to_nhwc(on(io.tensor("loss_weight"), unet.device()), DType::F32);
  tape.backward(out, output_gradient(weight, unet.dtype()));
  return gradients.in_file_layout();
}

std::map<std::string, Tensor> golden_t5_gradients(T5Encoder& encoder, const SafetensorsFile& io) {
  Tape tape;
  const WatchedGradients gradients(encoder.store(), tape);
  Tensor out;
  {
    RecordScope scope(&tape);
    out = run_golden_t5(encoder, io);
  }
  tape.backward(out, output_gradient(on(io.tensor("loss_weight"), encoder.device()), encoder.dtype()));
  return gradients.in_file_layout();
}

Record parse_record(const std::string& record) {
  const size_t at = record.find('@');
  if (at == std::string::npos) return {record, 0};
  return {record.substr(0, at), std::stoll(record.substr(at + 1))};
}

Tensor thinned(const Tensor& t, const Record& record) {
  if (record.stride == 0) return t;
  Tensor thin = Tensor::empty({(t.numel() + record.stride - 1) / record.stride}, DType::F32, kCpu);
  for (int64_t i = 0; i < thin.numel(); i++) thin.data<float>()[i] = t.data<float>()[i * record.stride];
  return thin;
}

}  // namespace df::test
