#include "training/initial_source.h"

#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "core/philox.h"

namespace df {
namespace {

using Rule = InitialSource::Rule;

constexpr uint32_t kParameters = 64;  // the purpose of these numbers; training/noise.cpp has those below

double fan_in(const Shape& shape) { return double(shape.numel()) / double(shape[0]); }

// FNV-1a, 64 bits.
uint64_t hash(const std::string& text) {
  uint64_t h = 14695981039346656037ull;
  for (const char c : text) h = (h ^ uint8_t(c)) * 1099511628211ull;
  return h;
}

}  // namespace

InitialSource::InitialSource(const std::vector<TensorInfo>& tensors,
                             const std::function<Rule(const TensorInfo&)>& rule, uint64_t seed)
    : seed_(seed) {
  for (const TensorInfo& info : tensors) tensors_[info.name] = {info, rule(info)};
}

std::vector<std::string> InitialSource::names() const {
  std::vector<std::string> all;
  for (const auto& [name, entry] : tensors_) all.push_back(name);
  return all;
}

TensorInfo InitialSource::describe(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail(ErrorCode::NotFound, "no tensor \"%s\" among %zu", name.c_str(), tensors_.size());
  return found->second.info;
}

Tensor InitialSource::read(const std::string& name) {
  const TensorInfo info = describe(name);
  const Rule rule = tensors_.at(name).rule;
  const Tensor t = Tensor::empty(info.shape, DType::F32, kCpu);
  float* values = t.data<float>();
  const int64_t n = t.numel();
  const Philox generator(seed_, kParameters, hash(name));
  const float scale = float(rule.value);
  parallel_ranges(n, 1 << 18, [&](int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    if (rule.kind == Rule::Kind::Uniform) generator.uniform(values + begin, count, begin);
    if (rule.kind == Rule::Kind::Normal) generator.normal(values + begin, count, begin);
    for (int64_t i = begin; i < end; i++) {
      if (rule.kind == Rule::Kind::Constant) values[i] = scale;
      else values[i] = rule.kind == Rule::Kind::Uniform ? (2 * values[i] - 1) * scale : values[i] * scale;
    }
  });
  return t;
}

InitialSource initial_unet(const std::vector<TensorInfo>& tensors, uint64_t seed) {
  std::map<std::string, Shape> shapes;
  for (const TensorInfo& info : tensors) shapes[info.name] = info.shape;
  const auto rule = [&](const TensorInfo& info) -> Rule {
    const bool bias = info.name.ends_with(".bias");
    if (info.name.ends_with(".positional_embedding")) return {Rule::Kind::Normal, 1 / std::sqrt(fan_in(info.shape))};
    // a bias follows the weight beside it
    const Shape& weight = bias ? shapes.at(info.name.substr(0, info.name.size() - 4) + "weight") : info.shape;
    if (weight.rank() == 1) return {Rule::Kind::Constant, bias ? 0.0 : 1.0};
    return {Rule::Kind::Uniform, 1 / std::sqrt(fan_in(weight))};
  };
  return InitialSource(tensors, rule, seed);
}

InitialSource initial_lora(const std::vector<TensorInfo>& tensors, uint64_t seed) {
  const auto rule = [](const TensorInfo& info) -> Rule {
    if (info.name.ends_with(".lora_B.weight")) return {Rule::Kind::Constant, 0};
    return {Rule::Kind::Uniform, 1 / std::sqrt(fan_in(info.shape))};
  };
  return InitialSource(tensors, rule, seed);
}

InitialSource initial_t5(const std::vector<TensorInfo>& tensors, const T5Config& c, uint64_t seed) {
  const auto rule = [&](const TensorInfo& info) -> Rule {
    const auto is = [&](const char* end) { return info.name.ends_with(end); };
    if (info.shape.rank() == 1) return {Rule::Kind::Constant, 1};
    if (info.name == "shared.weight") return {Rule::Kind::Normal, 1};
    if (is(".q.weight")) return {Rule::Kind::Normal, 1 / std::sqrt(double(c.d_model) * double(c.d_kv))};
    if (is(".o.weight")) return {Rule::Kind::Normal, 1 / std::sqrt(double(c.num_heads) * double(c.d_kv))};
    if (is(".wo.weight")) return {Rule::Kind::Normal, 1 / std::sqrt(double(c.d_ff))};
    return {Rule::Kind::Normal, 1 / std::sqrt(double(c.d_model))};  // k, v, wi_0, wi_1, relative_attention_bias
  };
  return InitialSource(tensors, rule, seed);
}

}  // namespace df
