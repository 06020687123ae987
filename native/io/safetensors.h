// The safetensors format (github.com/huggingface/safetensors, README "Format"): a 64-bit header length, a JSON header,
// then the tensors' bytes, little-endian and row-major, without gaps.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/named_tensor.h"

namespace df {

using Metadata = std::map<std::string, std::string>;

/// A safetensors file mapped read-only. Opening checks the whole header; no tensor data is touched.
class SafetensorsFile : public std::enable_shared_from_this<SafetensorsFile> {
 public:
  struct Entry {
    std::string name;
    std::string dtype;           ///< as the file writes it: "F32", "BF16", "F64", …
    std::vector<int64_t> shape;
    size_t begin = 0, end = 0;   ///< bytes, from the start of the file
  };

  /// Throws NOT_FOUND for a missing file, IO with the system's reason when it cannot be read, and FILE_FORMAT, naming
  /// file and tensor, for everything that the format forbids: a header that is cut off, larger than 100 MB or no JSON,
  /// unknown dtypes, offsets that overlap, leave holes, point outside or do not match shape and dtype.
  static std::shared_ptr<const SafetensorsFile> open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  /// In the order of their bytes in the file.
  const std::vector<Entry>& entries() const { return entries_; }
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return index_.count(name) != 0; }
  /// The strings of `__metadata__`.
  const Metadata& metadata() const { return metadata_; }

  /// Throws NOT_FOUND for an unknown name, UNSUPPORTED for a dtype that the engine does not have (F64, I16, …) or more
  /// than five dimensions.
  TensorInfo describe(const std::string& name) const;
  /// The tensor on the CPU: a read-only view of the mapped file, which it keeps open, or a copy where the file does not
  /// align it. Errors as `describe`.
  Tensor tensor(const std::string& name) const;
  /// Asks the system to read a tensor from the disk in the background.
  void prefetch(const std::string& name) const;
  /// Lets the system drop the pages of a tensor that will not be read soon again; reading it later is still correct.
  void release(const std::string& name) const;

 private:
  SafetensorsFile() = default;
  void parse_header();
  void check_layout();
  const Entry& entry(const std::string& name) const;

  std::string path_;
  char* data_ = nullptr;
  size_t size_ = 0;
  size_t data_start_ = 0;
  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> index_;
  Metadata metadata_;
};

/// Writes a file piece by piece into a temporary file next to `path`, which replaces `path` when all is there. The
/// bytes are those that the Python library writes: tensors by falling dtype, then by name, header padded to 8 bytes.
class SafetensorsWriter {
 public:
  /// Lays out the file. Throws INVALID_ARGUMENT for repeated or reserved names, IO with the system's reason.
  SafetensorsWriter(const std::string& path, const std::vector<TensorInfo>& tensors, const Metadata& metadata = {});
  /// Removes the temporary file unless `commit` succeeded.
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// A tensor as declared. Throws INVALID_ARGUMENT for a name that was not.
  const TensorInfo& describe(const std::string& name) const;
  /// Writes one of the tensors, in any order. `t`: on the CPU, contiguous, of the declared shape and dtype.
  void write(const std::string& name, const Tensor& t);
  /// Flushes to the disk and renames. Throws INVALID_ARGUMENT when a tensor was not written, IO.
  void commit();

 private:
  struct Slot {
    TensorInfo info;
    size_t offset = 0;
    bool written = false;
  };
  size_t slot_of(const std::string& name) const;
  void write_bytes(const void* bytes, size_t size, size_t offset);
  [[noreturn]] void io_error(const char* what) const;

  std::string path_, temporary_;
  int file_ = -1;
  std::vector<Slot> slots_;
  std::unordered_map<std::string, size_t> index_;
};

/// Writes all tensors at once; see SafetensorsWriter.
void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors, const Metadata& metadata = {});

}  // namespace df
