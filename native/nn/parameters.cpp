#include "nn/parameters.h"

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "core/execution.h"
#include "nn/lora.h"
#include "ops/check.h"
#include "ops/ops.h"

namespace df {
namespace {

// Freed conversion buffers have many sizes; beyond this they go back to the system while loading.
constexpr size_t kCacheLimit = size_t(256) << 20;
// Asked for ahead of the tensor that is being packed: keeps several reads under way, as fast disks need.
constexpr double kReadAhead = 256e6;
constexpr int64_t kConvertElements = int64_t(4) << 20;
constexpr std::string_view kWeight = ".weight";

bool is_floating(DType t) { return t == DType::F32 || t == DType::BF16 || t == DType::F16; }

double file_bytes(const TensorInfo& info) { return double(info.shape.numel()) * double(dtype_size(info.dtype)); }

// (O, I, kh, kw) → (O, kh, kw, I); other shapes are the same in the engine.
Shape engine_shape(const Shape& file) {
  return file.rank() == 4 ? Shape{file[0], file[2], file[3], file[1]} : file;
}

// The taps of a convolution as one row of pixels: the same permutation, in longer runs.
Shape taps_in_a_row(const Shape& file) { return {file[0], file[1], 1, file[2] * file[3]}; }

bool is_permuted(const Shape& file) { return file.rank() == 4 && file[2] * file[3] > 1; }

// A tensor of the file in `dtype` and the engine's layout; the tensor itself where nothing changes.
Tensor to_engine(const Tensor& t, DType dtype) {
  if (!is_permuted(t.shape())) {
    const Tensor same_order = t.reshape(engine_shape(t.shape()));
    return same_order.dtype() == dtype ? same_order : ops::copy(same_order, dtype);
  }
  const Tensor plain = Tensor::empty(engine_shape(t.shape()), dtype, t.device());
  const Tensor rows = t.reshape(taps_in_a_row(t.shape())), result = plain.reshape(engine_shape(rows.shape()));
  // some output channels at a time, so that the float32 copy in between is small
  const int64_t step = std::max<int64_t>(1, kConvertElements * t.dim(0) / t.numel());
  for (int64_t o = 0; o < t.dim(0); o += step) {
    const Tensor some = rows.slice_first(o, std::min(step, t.dim(0) - o));
    const Tensor permuted = ops::nchw_to_nhwc(some.dtype() == DType::F32 ? some : ops::copy(some, DType::F32), dtype);
    ops::copy(permuted, dtype, result.slice_first(o, some.dim(0)));
  }
  return plain;
}

// A dtype that holds all parts exactly.
DType common_dtype(const std::vector<Tensor>& parts) {
  for (const Tensor& part : parts)
    if (part.dtype() != parts[0].dtype()) return DType::F32;
  return parts[0].dtype();
}

// (parts, elements of one part) on the CPU, in the engine's order.
Tensor in_parts(const Parameter& p, const Tensor& plain) {
  const Tensor host = plain.device() == kCpu ? plain : ops::to_device(plain, kCpu);
  return host.reshape({int64_t(p.names.size()), p.shape.numel()});
}

// Part i of these.
Tensor part_in_file_layout(const Parameter& p, const Tensor& parts, int64_t i) {
  const Tensor part = parts.slice_first(i, 1);
  if (!is_permuted(p.shape)) return part.reshape(p.shape);
  const Tensor exact = part.dtype() == DType::F16 ? ops::copy(part, DType::F32) : part;  // CPUs do not compute in float16
  const Tensor permuted =
      ops::nhwc_to_nchw(exact.reshape(engine_shape(taps_in_a_row(p.shape)))).reshape(p.shape);  // float32
  return p.dtype == DType::F32 ? permuted : ops::copy(permuted, p.dtype);
}

}  // namespace

std::string list_names(const std::vector<std::string>& names, size_t limit) {
  std::string s;
  for (size_t i = 0; i < names.size() && i < limit; i++) s += (i ? ", " : "") + names[i];
  if (names.size() > limit) s += " and " + std::to_string(names.size() - limit) + " more";
  return s;
}

ParameterStore::ParameterStore(std::string model, DType dtype, Device device, WeightOptions options)
    : model_(std::move(model)), dtype_(dtype), device_(device), options_(options) {
  ops::check_compute_dtype(model_.c_str(), dtype, device);
  DF_CHECK(dtype != DType::F16 || !options.trainable, "%s: dtype must be f32 or bf16 in training, got f16", model_.c_str());
}

Parameter& ParameterStore::declare(const std::vector<std::string>& names, const Shape& shape) {
  for (size_t i = 0; i < names.size(); i++)
    if (!index_.emplace(names[i], std::pair(parameters_.size(), int64_t(i))).second)
      fail(ErrorCode::Internal, "%s: parameter %s was declared twice", model_.c_str(), names[i].c_str());
  Parameter p;
  p.names = names;
  p.shape = shape;
  return parameters_.emplace_back(std::move(p));
}

const Weight* ParameterStore::weight(const std::vector<std::string>& names, const Shape& shape) {
  Parameter& p = declare(names, shape);
  p.dtype = options_.int8 || options_.trainable ? DType::F32 : dtype_;
  p.packed = true;
  return &p.weight;
}

const Parameter* ParameterStore::linear(const std::vector<std::string>& names, const Shape& shape) {
  weight(names, shape);
  parameters_.back().linear = true;
  return &parameters_.back();
}

const Tensor* ParameterStore::tensor(const std::vector<std::string>& names, const Shape& shape, DType dtype) {
  Parameter& p = declare(names, shape);
  p.dtype = options_.trainable ? DType::F32 : dtype;
  return &p.value;
}

void ParameterStore::alias(const std::string& name, const std::string& other) { alias_[other] = name; }

std::string ParameterStore::source_name(const std::string& name,
                                        const std::unordered_map<std::string, bool>& present) const {
  if (present.count(name)) return name;
  for (const auto& [other, declared] : alias_)
    if (declared == name && present.count(other)) return other;
  return {};
}

// Compares names and shapes; returns the bytes to read. `present`: the names in the source → whether they are used.
double ParameterStore::check_source(const StateSource& source, std::unordered_map<std::string, bool>& present) const {
  for (const std::string& name : source.names()) present[name] = alias_.count(name) != 0;
  std::vector<std::string> missing, misshapen, unexpected;
  double bytes = 0;
  for (const Parameter& p : parameters_) {
    for (const std::string& name : p.names) {
      const std::string found = source_name(name, present);
      if (found.empty()) {
        missing.push_back(name);
        continue;
      }
      present[found] = true;
      const TensorInfo info = source.describe(found);
      if (info.shape != p.shape || !is_floating(info.dtype))
        misshapen.push_back(found + " (expected " + p.shape.str() + ", got " + info.shape.str() +
                            (is_floating(info.dtype) ? "" : std::string(" ") + dtype_name(info.dtype)) + ")");
      bytes += file_bytes(info);
    }
  }
  for (const std::string& name : source.names())
    if (!present[name]) unexpected.push_back(name);
  std::string what;
  const auto add = [&](const std::vector<std::string>& names, const char* kind) {
    if (!names.empty()) what += format("%s%zu %s: ", what.empty() ? "" : "; ", names.size(), kind) + list_names(names);
  };
  add(missing, "missing");
  add(misshapen, "of another shape or type");
  add(unexpected, "unexpected");
  if (!what.empty())
    fail(ErrorCode::Weights, "%s: the tensors do not fit the config (do both belong to the same model?): %s",
         model_.c_str(), what.c_str());
  return bytes;
}

// The parts of one parameter as one tensor in the engine's layout, on the device of the model.
Tensor ParameterStore::join(const Parameter& p, const std::vector<Tensor>& parts,
                            std::vector<std::string>& not_finite) const {
  // int8 is rounded from what the file holds
  const DType dtype = p.packed && options_.int8 ? common_dtype(parts) : p.dtype;
  Tensor plain;
  if (parts.size() == 1) {
    plain = to_engine(parts[0], dtype);
    if (!ops::all_finite(plain)) not_finite.push_back(p.names[0]);
  } else {
    const Shape shape = engine_shape(p.shape);
    const Tensor stacked = Tensor::empty({int64_t(parts.size()), shape.numel()}, dtype, parts[0].device());
    for (size_t i = 0; i < parts.size(); i++) {
      const Tensor part = stacked.slice_first(int64_t(i), 1).reshape(shape);
      ops::copy(parts[i].reshape(shape), dtype, part);
      if (!ops::all_finite(part)) not_finite.push_back(p.names[i]);
    }
    Shape all = shape;
    all.set(0, shape[0] * int64_t(parts.size()));
    plain = stacked.reshape(all);
  }
  return plain.device() == device_ ? plain : ops::to_device(plain, device_);
}

void ParameterStore::keep(Parameter& p, const Tensor& plain) const {
  if (!p.packed) {
    p.value = ops::copy(plain, p.dtype);  // never a view of the source
  } else if (options_.trainable) {
    const Shape& shape = plain.shape();
    p.weight = {.out = shape[0], .in = shape[-1], .dtype = dtype_, .data = {}, .scales = {}, .master = {}};
    if (shape.rank() == 4) p.weight.kernel_h = shape[1], p.weight.kernel_w = shape[2];
    p.weight.master = ops::copy(plain, DType::F32);
  } else {
    p.weight = options_.int8 ? ops::pack_int8(plain, dtype_) : ops::pack(plain, dtype_);
  }
}

// Hands every parameter to `store`, one after the other, its source pages released behind.
void ParameterStore::read_source(StateSource& source, const LoadProgress& progress, const Store& store) const {
  std::unordered_map<std::string, bool> present;
  const double total = check_source(source, present);
  double done = 0, asked = 0;
  std::vector<std::string> not_finite;
  auto ahead = parameters_.begin();
  for (size_t index = 0; index < parameters_.size(); index++) {
    const Parameter& p = parameters_[index];
    begin_op();
    for (; ahead != parameters_.end() && asked < done + kReadAhead; ++ahead)
      for (const std::string& name : ahead->names) {
        source.prefetch(source_name(name, present));
        asked += file_bytes(source.describe(source_name(name, present)));
      }
    std::vector<Tensor> parts;
    for (const std::string& name : p.names) {
      if (device_.type == DeviceType::Meta) {  // has no values
        parts.push_back(Tensor::empty(p.shape, p.dtype, device_));
      } else {
        const Tensor part = source.read(source_name(name, present));
        // converted, checked and packed where it is needed
        parts.push_back(device_.type == DeviceType::Cpu ? part : ops::to_device(part, device_));
      }
      done += file_bytes(source.describe(source_name(name, present)));
    }
    store(index, join(p, parts, not_finite));
    parts.clear();
    for (const std::string& name : p.names) source.release(source_name(name, present));
    if (memory_stats(kCpu).cached > kCacheLimit) release_cached(kCpu);
    if (progress) progress(done, total);
  }
  if (!not_finite.empty())
    fail(ErrorCode::Weights, "%s: %zu tensor(s) with NaN or infinite values in %s: %s", model_.c_str(),
         not_finite.size(), dtype_name(dtype_), list_names(not_finite).c_str());
  release_cached(kCpu);
}

void ParameterStore::load(StateSource& source, const LoadProgress& progress) {
  clear();
  try {
    read_source(source, progress, [&](size_t index, const Tensor& plain) { keep(parameters_[index], plain); });
  } catch (...) {
    clear();
    throw;
  }
  loaded_ = true;
}

void ParameterStore::load_merged(const ParameterStore& base) {
  base.check_loaded();
  clear();
  const bool alike = base.parameters_.size() == parameters_.size() && base.dtype_ == dtype_ && base.device_ == device_;
  if (!alike || base.options_.trainable || base.options_.int8)
    fail(ErrorCode::Internal, "%s: load_merged: the base is another model", model_.c_str());
  for (size_t i = 0; i < parameters_.size(); i++) {
    begin_op();
    const Parameter& from = base.parameters_[i];
    parameters_[i].value = from.value;
    parameters_[i].weight = from.weight;
    if (from.lora.empty()) continue;
    const Tensor plain = ops::unpack(from.weight, DType::F32).reshape({from.weight.out, from.weight.in});
    for (const LoraTerm& term : from.lora) {
      const Tensor part = plain.slice_first(term.part * from.shape[0], from.shape[0]);
      ops::copy(add_low_rank(part, {term.down->master, term.up->master, term.scale}), DType::F32, part);
    }
    parameters_[i].weight = ops::pack(plain, dtype_);
  }
  loaded_ = true;
}

void ParameterStore::check_loaded() const {
  DF_CHECK(loaded_, "%s: no weights are loaded; call load first", model_.c_str());
}

// Before every load.
void ParameterStore::clear() {
  static std::atomic<uint64_t> loads{0};
  version_ = ++loads;
  loaded_ = false;
  for (Parameter& p : parameters_) {
    p.weight = Weight();
    p.value = Tensor();
  }
}

std::vector<TensorInfo> ParameterStore::infos() const {
  std::vector<TensorInfo> all;
  for (const Parameter& p : parameters_)
    for (const std::string& name : p.names) all.push_back({name, p.shape, p.dtype});
  return all;
}

std::vector<std::pair<std::string, Shape>> ParameterStore::linear_layers() const {
  std::vector<std::pair<std::string, Shape>> all;
  for (const Parameter& p : parameters_)
    if (p.linear)
      for (const std::string& name : p.names) all.emplace_back(name.substr(0, name.size() - kWeight.size()), p.shape);
  return all;
}

void ParameterStore::add_lora(const std::string& module, LoraTerm term) {
  const auto [index, part] = find(module + std::string(kWeight));
  term.part = part;
  parameters_[index].lora.push_back(term);
}

Tensor ParameterStore::unpack(const Parameter& p) const {
  return in_parts(p, !p.packed ? p.value : p.weight.master.defined() ? p.weight.master : ops::unpack(p.weight, p.dtype));
}

// Parameter and part.
std::pair<size_t, int64_t> ParameterStore::find(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) fail(ErrorCode::NotFound, "%s: no parameter \"%s\"", model_.c_str(), name.c_str());
  return found->second;
}

Tensor ParameterStore::read(const std::string& name) const {
  check_loaded();
  const auto [index, part] = find(name);
  return part_in_file_layout(parameters_[index], unpack(parameters_[index]), part);
}

std::vector<Tensor> ParameterStore::values() const {
  check_loaded();
  std::vector<Tensor> all;
  for (const Parameter& p : parameters_) all.push_back(p.packed ? p.weight.master : p.value);
  return all;
}

void ParameterStore::set_values(const std::vector<Tensor>& state) {
  for (size_t i = 0; i < parameters_.size(); i++)
    (parameters_[i].packed ? parameters_[i].weight.master : parameters_[i].value) = state[i];
}

Tensor ParameterStore::read_state(const std::string& name, const std::vector<Tensor>& state) const {
  const auto [index, part] = find(name);
  const Parameter& p = parameters_[index];
  return part_in_file_layout(p, in_parts(p, state[index]), part);
}

void ParameterStore::write_state(StateSource& source, const std::vector<Tensor>& state) const {
  read_source(source, {}, [&](size_t index, const Tensor& plain) { ops::copy(plain, DType::F32, state[index]); });
}

std::vector<NamedTensor> ParameterStore::state_dict() const {
  check_loaded();
  std::vector<NamedTensor> all;
  for (const Parameter& p : parameters_) {
    const Tensor parts = unpack(p);
    for (size_t i = 0; i < p.names.size(); i++)
      all.push_back({p.names[i], part_in_file_layout(p, parts, int64_t(i))});
  }
  return all;
}

size_t ParameterStore::bytes() const {
  size_t bytes = 0;
  for (const Parameter& p : parameters_) {
    const size_t values = size_t(p.shape.numel()) * p.names.size(), outputs = size_t(p.shape[0]) * p.names.size();
    if (loaded_) bytes += p.packed ? p.weight.bytes() : p.value.bytes();
    else bytes += p.packed && options_.int8 ? values + outputs * sizeof(float) : values * dtype_size(p.dtype);
  }
  return bytes;
}

}  // namespace df
