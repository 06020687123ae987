#include "nn/lora.h"

#include <cmath>

#include "core/error.h"
#include "core/execution.h"
#include "core/parallel.h"
#include "core/philox.h"
#include "ops/ops.h"

namespace df {
namespace {

long long ll(int64_t v) { return static_cast<long long>(v); }

bool matches(const std::string& module, const std::string& target) {
  return module == target || module.ends_with("." + target);
}

void check_options(const LoraOptions& o) {
  DF_CHECK(o.rank >= 1 && o.rank <= 1 << 16, "lora: rank must be from 1 to 65536, got %lld", ll(o.rank));
  DF_CHECK(std::isfinite(o.alpha), "lora: alpha must be finite, got %g", o.alpha);
  DF_CHECK(o.dropout >= 0 && o.dropout < 1, "lora: dropout must be at least 0 and less than 1, got %g", o.dropout);
  DF_CHECK(!o.targets.empty(), "lora: targets must not be empty");
}

// The product of one term, before `up`: (…, rank).
Tensor inner(const LoraTerm& term, const Tensor& x) {
  const LoraDropout* d = term.dropout;
  if (!d || d->probability == 0 || d->samples.empty())
    return ops::linear(x, *term.down, {.bias = {}, .residual = {}, .scale = term.scale});
  const Tensor mask = dropout_mask(x.shape(), x.dtype(), x.device(), *d, term.stream);
  const Tensor kept = ops::gated_activation(mask, x, Activation::None);  // mask · x
  const float scale = float(term.scale / (1 - double(d->probability)));
  return ops::linear(kept, *term.down, {.bias = {}, .residual = {}, .scale = scale});
}

}  // namespace

Lora::Lora(Module& model, const LoraOptions& o, uint32_t stream)
    : factors_("lora", model.dtype(), model.device(), {.trainable = true}) {
  check_options(o);
  dropout_.probability = float(o.dropout);
  std::vector<bool> used(o.targets.size());
  for (const auto& [module, shape] : model.store().linear_layers()) {
    bool wanted = false;
    for (size_t i = 0; i < o.targets.size(); i++)
      if (matches(module, o.targets[i])) wanted = used[i] = true;
    if (!wanted) continue;
    LoraTerm term;
    term.down = factors_.weight({module + ".lora_A.weight"}, {o.rank, shape[1]});
    term.up = factors_.weight({module + ".lora_B.weight"}, {shape[0], o.rank});
    term.scale = float(o.alpha / double(o.rank));
    term.dropout = &dropout_;
    term.stream = stream++;
    model.store().add_lora(module, term);
  }
  std::vector<std::string> unknown;
  for (size_t i = 0; i < used.size(); i++)
    if (!used[i]) unknown.push_back(o.targets[i]);
  DF_CHECK(unknown.empty(), "lora: no linear layer of the model is called or ends in: %s", list_names(unknown).c_str());
}

void Lora::begin_dropout(uint64_t seed, std::vector<uint64_t> samples) {
  dropout_.seed = seed;
  dropout_.samples = std::move(samples);
}

Tensor low_rank_terms(const Parameter& layer, const Tensor& x, const Tensor& residual) {
  const int64_t parts = int64_t(layer.names.size()), out = layer.shape[0];
  Shape shape = x.shape();
  shape.set(shape.rank() - 1, parts * out);
  // summed before the layer's own product, which adds it as its residual, so that nothing is written twice
  const Tensor sum = Tensor::zeros(shape, x.dtype(), x.device());
  for (int64_t part = 0; part < parts; part++) {
    const Tensor into = sum.slice_last(part * out, out);
    std::vector<const LoraTerm*> terms;
    for (const LoraTerm& term : layer.lora)
      if (term.part == part) terms.push_back(&term);
    Tensor before = residual.defined() ? residual.slice_last(part * out, out) : Tensor();
    if (terms.empty() && before.defined()) ops::copy(before, x.dtype(), into);
    for (const LoraTerm* term : terms) {
      const Tensor to = term == terms.back() ? into : Tensor();
      before = ops::linear(inner(*term, x), *term->up, {.bias = {}, .residual = before}, to);
    }
  }
  return sum;
}

Tensor dropout_mask(const Shape& shape, DType dtype, Device device, const LoraDropout& d, uint32_t stream) {
  if (shape.rank() < 2 || shape[0] != int64_t(d.samples.size()))
    fail(ErrorCode::Internal, "dropout_mask: %zu samples for %s", d.samples.size(), shape.str().c_str());
  if (device.type == DeviceType::Meta) return Tensor::empty(shape, dtype, device);
  begin_op();
  const Tensor mask = Tensor::empty(shape, DType::F32, kCpu);
  const int64_t n = shape.numel() / shape[0], piece = 1 << 14, pieces = (n + piece - 1) / piece;
  parallel_for(shape[0] * pieces, [&](int64_t i, int) {
    const int64_t item = i / pieces, first = i % pieces * piece, count = std::min(piece, n - first);
    float* values = mask.data<float>() + item * n + first;
    Philox(d.seed, stream, d.samples[size_t(item)]).uniform(values, count, first);
    for (int64_t j = 0; j < count; j++) values[j] = values[j] < d.probability ? 0.f : 1.f;
  });
  const Tensor converted = dtype == DType::F32 ? mask : ops::copy(mask, dtype);
  return device == kCpu ? converted : ops::to_device(converted, device);
}

Tensor add_low_rank(const Tensor& weight, const LowRank& p) {
  // the epilogue would scale the weight as well
  const Tensor up = ops::axpby(p.scale, p.up, 0, p.up);
  return ops::linear(up, ops::pack_transposed(p.down, DType::F32), {.bias = {}, .residual = weight});
}

MergedSource::MergedSource(StateSource& base, const std::vector<LoraProduct>& products) : base_(base) {
  std::unordered_map<std::string, Shape> shapes;
  for (const std::string& name : base.names()) shapes.emplace(name, base.describe(name).shape);
  std::vector<std::string> wrong;
  for (const LoraProduct& p : products) {
    const auto found = shapes.find(p.module + ".weight");
    const Tensor &down = p.factors.down, &up = p.factors.up;
    const bool fits = found != shapes.end() && down.shape().rank() == 2 && up.shape().rank() == 2 &&
                      down.dim(0) == up.dim(1) && down.dim(0) > 0 && found->second == Shape{up.dim(0), down.dim(1)};
    const std::string factors = up.shape().str() + " and " + down.shape().str();
    if (found == shapes.end()) wrong.push_back(p.module + " (no such layer)");
    else if (!fits) wrong.push_back(p.module + " (" + found->second.str() + ", the factors are " + factors + ")");
    else if (p.factors.scale != 0) products_[found->first].push_back(p.factors);
  }
  if (!wrong.empty())
    fail(ErrorCode::Weights, "lora: %zu module(s) do not fit the model: %s", wrong.size(), list_names(wrong).c_str());
}

TensorInfo MergedSource::describe(const std::string& name) const {
  TensorInfo info = base_.describe(name);
  if (products_.count(name)) info.dtype = DType::F32;
  return info;
}

Tensor MergedSource::read(const std::string& name) {
  const auto found = products_.find(name);
  Tensor t = base_.read(name);
  if (found == products_.end()) return t;
  t = ops::copy(t, DType::F32);
  for (const LowRank& product : found->second) t = add_low_rank(t, product);
  return t;
}

}  // namespace df
