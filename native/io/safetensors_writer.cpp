#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>

#include "core/error.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace df {
namespace {

// Name and rank in the order of the Python library (safetensors/src/tensor.rs: enum Dtype, sorted falling).
struct WrittenDType {
  const char* name;
  int rank;
};

WrittenDType written_dtype(DType t) {
  switch (t) {
    case DType::I64: return {"I64", 5};
    case DType::F32: return {"F32", 4};
    case DType::I32: return {"I32", 3};
    case DType::BF16: return {"BF16", 2};
    case DType::F16: return {"F16", 1};
    case DType::U8: return {"U8", 0};
  }
  return {"U8", 0};
}

std::string header_text(const std::vector<TensorInfo>& tensors, const Metadata& metadata) {
  std::string s = "{";
  if (!metadata.empty()) {
    s += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) s += json_quote(key) + ":" + json_quote(value) + ",";
    s.back() = '}';
    s += ",";
  }
  size_t offset = 0;
  for (const TensorInfo& t : tensors) {
    s += json_quote(t.name) + ":{\"dtype\":\"" + written_dtype(t.dtype).name + "\",\"shape\":[";
    for (int i = 0; i < t.shape.rank(); i++) s.append(i ? "," : "").append(std::to_string(t.shape[i]));
    const size_t end = offset + size_t(t.shape.numel()) * dtype_size(t.dtype);
    s += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]},";
    offset = end;
  }
  if (s.back() == ',') s.pop_back();
  s += "}";
  s.resize((s.size() + 7) / 8 * 8, ' ');
  return s;
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<TensorInfo>& tensors,
                                     const Metadata& metadata)
    : path_(path) {
  std::vector<TensorInfo> sorted = tensors;
  std::sort(sorted.begin(), sorted.end(), [](const TensorInfo& a, const TensorInfo& b) {
    const int ra = written_dtype(a.dtype).rank, rb = written_dtype(b.dtype).rank;
    return ra != rb ? ra > rb : a.name < b.name;
  });
  const std::string header = header_text(sorted, metadata);
  size_t offset = 8 + header.size();
  for (const TensorInfo& t : sorted) {
    DF_CHECK(t.name != "__metadata__", "%s: a tensor cannot be called __metadata__", path.c_str());
    DF_CHECK(index_.emplace(t.name, slots_.size()).second, "%s: two tensors are called \"%s\"", path.c_str(),
             t.name.c_str());
    slots_.push_back({t, offset});
    offset += size_t(t.shape.numel()) * dtype_size(t.dtype);
  }

  static std::atomic<unsigned> counter{0};
  do {
    temporary_ = format("%s.%d-%u.tmp", path.c_str(), int(::getpid()), counter++);
    file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (file_ < 0 && errno == EEXIST);
  if (file_ < 0) io_error("create");
  try {
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = uint8_t(uint64_t(header.size()) >> (8 * i));
    write_bytes(length, 8, 0);
    write_bytes(header.data(), header.size(), 8);
  } catch (...) {  // no destructor runs for an object that was not finished
    ::close(file_);
    ::unlink(temporary_.c_str());
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_ >= 0) ::close(file_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void SafetensorsWriter::io_error(const char* what) const {
  fail(ErrorCode::Io, "%s: cannot %s: %s", path_.c_str(), what, std::generic_category().message(errno).c_str());
}

void SafetensorsWriter::write_bytes(const void* bytes, size_t size, size_t offset) {
  const char* at = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t n = ::pwrite(file_, at, std::min(size, size_t(1) << 30), off_t(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) io_error("write");
    at += n;
    offset += size_t(n);
    size -= size_t(n);
  }
}

size_t SafetensorsWriter::slot_of(const std::string& name) const {
  const auto found = index_.find(name);
  DF_CHECK(found != index_.end(), "%s: tensor \"%s\" was not declared", path_.c_str(), name.c_str());
  return found->second;
}

const TensorInfo& SafetensorsWriter::describe(const std::string& name) const { return slots_[slot_of(name)].info; }

void SafetensorsWriter::write(const std::string& name, const Tensor& t) {
  Slot& slot = slots_[slot_of(name)];
  DF_CHECK(t.defined() && t.shape() == slot.info.shape && t.dtype() == slot.info.dtype,
           "%s: tensor \"%s\" must be %s %s, got %s %s", path_.c_str(), name.c_str(), dtype_name(slot.info.dtype),
           slot.info.shape.str().c_str(), dtype_name(t.dtype()), t.shape().str().c_str());
  DF_CHECK(t.contiguous() && t.device().type == DeviceType::Cpu, "%s: tensor \"%s\" must be contiguous and on the cpu",
           path_.c_str(), name.c_str());
  write_bytes(t.raw(), t.bytes(), slot.offset);
  slot.written = true;
}

void SafetensorsWriter::commit() {
  DF_CHECK(file_ >= 0, "%s: commit was called before", path_.c_str());
  for (const Slot& s : slots_)
    DF_CHECK(s.written, "%s: tensor \"%s\" was not written", path_.c_str(), s.info.name.c_str());
  if (::fsync(file_) != 0) io_error("flush");
  const int file = file_;
  file_ = -1;
  if (::close(file) != 0) io_error("close");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) io_error("rename the temporary file");
  temporary_.clear();
  // makes the rename itself durable; some file systems cannot, and the file is complete without
  const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);
    ::close(folder);
  }
}

void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors, const Metadata& metadata) {
  std::vector<TensorInfo> infos;
  for (const NamedTensor& t : tensors) infos.push_back({t.name, t.tensor.shape(), t.tensor.dtype()});
  SafetensorsWriter writer(path, infos, metadata);
  for (const NamedTensor& t : tensors) writer.write(t.name, t.tensor);
  writer.commit();
}

}  // namespace df
