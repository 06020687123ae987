#include "io/state_source.h"

#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"

namespace df {
namespace {

constexpr int64_t kDrawn = 65521;  // prime, so that rows of a matrix do not repeat each other

template <class V> const V& lookup(const std::map<std::string, V>& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) fail(ErrorCode::NotFound, "no tensor \"%s\" among %zu", name.c_str(), tensors.size());
  return found->second;
}

template <class V> std::vector<std::string> keys(const std::map<std::string, V>& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, value] : tensors) names.push_back(name);
  return names;
}

// FNV-1a, 32 bits.
uint32_t hash(const std::string& text) {
  uint32_t h = 2166136261u;
  for (const char c : text) h = (h ^ uint8_t(c)) * 16777619u;
  return h;
}

// out[i] = mean + scale * normal[start + i], around and around.
template <class T>
void fill(T* out, int64_t n, const std::vector<float>& normal, int64_t start, float mean, float scale) {
  parallel_ranges(n, 1 << 20, [&](int64_t begin, int64_t end) {
    int64_t at = (start + begin) % kDrawn;
    for (int64_t i = begin; i < end; i++) {
      out[i] = from_float<T>(mean + scale * normal[size_t(at)]);
      if (++at == kDrawn) at = 0;
    }
  });
}

}  // namespace

SafetensorsSource::SafetensorsSource(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    files_.push_back(SafetensorsFile::open(path));
    for (const auto& entry : files_.back()->entries()) {
      const auto [where, is_new] = index_.emplace(entry.name, files_.size() - 1);
      if (!is_new)
        fail(ErrorCode::FileFormat, "tensor \"%s\" is in two files: %s and %s", entry.name.c_str(),
             files_[where->second]->path().c_str(), path.c_str());
    }
  }
}

const SafetensorsFile& SafetensorsSource::file_of(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end())
    fail(ErrorCode::NotFound, "no tensor \"%s\" in %zu file(s)", name.c_str(), files_.size());
  return *files_[found->second];
}

std::vector<std::string> SafetensorsSource::names() const {
  std::vector<std::string> all;
  for (const auto& file : files_)
    for (const auto& entry : file->entries()) all.push_back(entry.name);
  return all;
}

TensorInfo SafetensorsSource::describe(const std::string& name) const { return file_of(name).describe(name); }
Tensor SafetensorsSource::read(const std::string& name) { return file_of(name).tensor(name); }
void SafetensorsSource::prefetch(const std::string& name) { file_of(name).prefetch(name); }
void SafetensorsSource::release(const std::string& name) { file_of(name).release(name); }

RandomSource::RandomSource(const std::vector<TensorInfo>& tensors) {
  for (const TensorInfo& t : tensors) tensors_[t.name] = t;
}

std::vector<std::string> RandomSource::names() const { return keys(tensors_); }
TensorInfo RandomSource::describe(const std::string& name) const { return lookup(tensors_, name); }

Tensor RandomSource::read(const std::string& name) {
  const TensorInfo& info = lookup(tensors_, name);
  if (normal_.empty()) {
    normal_.resize(size_t(kDrawn));
    TorchGenerator(0).normal(normal_.data(), kDrawn);
  }
  const bool matrix = info.shape.rank() >= 2;
  const int64_t n = info.shape.numel();
  float mean = matrix || name.ends_with("bias") ? 0.0f : 1.0f;
  float scale = matrix ? float(1 / std::sqrt(double(n) / double(info.shape[0]))) : 0.1f;
  for (const auto& [suffix, factor] : factors_)
    if (name.ends_with(suffix)) mean *= factor, scale *= factor;
  const int64_t start = hash(name) % kDrawn;
  Tensor t = Tensor::empty(info.shape, info.dtype, kCpu);
  switch (info.dtype) {
    case DType::F32: fill(t.data<float>(), n, normal_, start, mean, scale); break;
    case DType::BF16: fill(t.data<BFloat16>(), n, normal_, start, mean, scale); break;
    case DType::F16: fill(t.data<Float16>(), n, normal_, start, mean, scale); break;
    default:
      fail(ErrorCode::InvalidArgument, "random weights: \"%s\" has the integer type %s", name.c_str(),
           dtype_name(info.dtype));
  }
  return t;
}

std::vector<std::string> TensorMapSource::names() const { return keys(tensors_); }

TensorInfo TensorMapSource::describe(const std::string& name) const {
  const Tensor& t = lookup(tensors_, name);
  return {name, t.shape(), t.dtype()};
}

Tensor TensorMapSource::read(const std::string& name) { return lookup(tensors_, name); }

}  // namespace df
