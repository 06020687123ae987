// Where a model's weights come from: files, random numbers, or tensors in memory.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/named_tensor.h"
#include "io/safetensors.h"

namespace df {

/// Named tensors in file layout (linear (O, I), convolution (O, I, kh, kw)), on the CPU.
class StateSource {
 public:
  virtual ~StateSource() = default;
  virtual std::vector<std::string> names() const = 0;
  /// Throws NOT_FOUND for an unknown name; the errors of SafetensorsFile::describe for files.
  virtual TensorInfo describe(const std::string& name) const = 0;
  /// The tensor: contiguous, possibly a view of read-only memory.
  virtual Tensor read(const std::string& name) = 0;
  /// The tensor will be read soon: reading from the disk may begin.
  virtual void prefetch(const std::string&) {}
  /// The tensor will not be read again: its memory may go.
  virtual void release(const std::string&) {}
};

/// One safetensors file, or the shards of one model.
class SafetensorsSource : public StateSource {
 public:
  /// Opens all files. Throws what SafetensorsFile::open throws, and FILE_FORMAT for a name that is in two files.
  explicit SafetensorsSource(const std::vector<std::string>& paths);
  std::vector<std::string> names() const override;
  TensorInfo describe(const std::string& name) const override;
  Tensor read(const std::string& name) override;
  void prefetch(const std::string& name) override;
  void release(const std::string& name) override;

 private:
  const SafetensorsFile& file_of(const std::string& name) const;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::unordered_map<std::string, size_t> index_;
};

/// Random weights for benchmarks: N(0, 1/fan_in) for two and more dimensions, 0.1 N(0, 1) for names that end in "bias",
/// 1 + 0.1 N(0, 1) for the rest. Deterministic by name; 65,521 numbers are drawn once and repeated.
class RandomSource : public StateSource {
 public:
  explicit RandomSource(const std::vector<TensorInfo>& tensors);
  /// Multiplies the tensors whose names end in `suffix`.
  void scale(const std::string& suffix, float factor) { factors_.emplace_back(suffix, factor); }
  std::vector<std::string> names() const override;
  TensorInfo describe(const std::string& name) const override;
  Tensor read(const std::string& name) override;

 private:
  std::map<std::string, TensorInfo> tensors_;
  std::vector<std::pair<std::string, float>> factors_;
  std::vector<float> normal_;
};

/// Tensors in memory.
class TensorMapSource : public StateSource {
 public:
  explicit TensorMapSource(std::map<std::string, Tensor> tensors) : tensors_(std::move(tensors)) {}
  std::vector<std::string> names() const override;
  TensorInfo describe(const std::string& name) const override;
  Tensor read(const std::string& name) override;

 private:
  std::map<std::string, Tensor> tensors_;
};

}  // namespace df
