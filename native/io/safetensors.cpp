#include "io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <tuple>

#include "core/error.h"
#include "io/json.h"

namespace df {
namespace {

constexpr size_t kMaxHeader = 100'000'000;  // safetensors/src/tensor.rs: MAX_HEADER_SIZE

// Linux reads no more per call than the device's read_ahead_kb, 128 by default.
constexpr size_t kReadAhead = 128 << 10;

struct FileDType {
  const char* name;
  size_t size;
  std::optional<DType> dtype;  // none: the engine cannot compute with it
};

constexpr FileDType kDTypes[] = {
    {"F32", 4, DType::F32},   {"BF16", 2, DType::BF16}, {"F16", 2, DType::F16}, {"I64", 8, DType::I64},
    {"I32", 4, DType::I32},   {"U8", 1, DType::U8},     {"BOOL", 1, {}},        {"I8", 1, {}},
    {"F8_E5M2", 1, {}},       {"F8_E4M3", 1, {}},       {"F8_E8M0", 1, {}},     {"I16", 2, {}},
    {"U16", 2, {}},           {"U32", 4, {}},           {"F64", 8, {}},         {"U64", 8, {}},
    {"C64", 8, {}},
};

const FileDType* find_dtype(const std::string& name) {
  for (const FileDType& d : kDTypes)
    if (name == d.name) return &d;
  return nullptr;
}

std::string system_reason(int error) { return std::generic_category().message(error); }

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); i++) s.append(i ? ", " : "").append(std::to_string(shape[i]));
  return s + ")";
}

// Closes a descriptor at the end of the scope: a mapping does not need it any more.
struct Descriptor {
  int fd;
  ~Descriptor() { if (fd >= 0) ::close(fd); }
};

[[noreturn]] void bad_tensor(const std::string& path, const std::string& name, const std::string& what) {
  fail(ErrorCode::FileFormat, "%s: tensor \"%s\": %s", path.c_str(), name.c_str(), what.c_str());
}

// Reads one member of the header; begin and end are still relative to the data.
SafetensorsFile::Entry read_entry(const std::string& path, const std::string& name, const Json& v, size_t data_size) {
  if (!v.is(Json::Type::Object)) bad_tensor(path, name, format("expected an object, got %s", v.type_name()));
  const Json *dtype = v.find("dtype"), *shape = v.find("shape"), *offsets = v.find("data_offsets");
  if (!dtype || !dtype->is(Json::Type::String)) bad_tensor(path, name, "\"dtype\" must be a string");
  if (!shape || !shape->is(Json::Type::Array)) bad_tensor(path, name, "\"shape\" must be an array");
  if (!offsets || !offsets->is(Json::Type::Array) || offsets->items().size() != 2)
    bad_tensor(path, name, "\"data_offsets\" must be an array of two numbers");
  const FileDType* type = find_dtype(dtype->string());
  if (!type) bad_tensor(path, name, "unknown dtype \"" + dtype->string() + "\"");

  SafetensorsFile::Entry e;
  e.name = name;
  e.dtype = dtype->string();
  int64_t bytes = int64_t(type->size);
  bool empty = false;
  for (const Json& d : shape->items()) {
    if (!d.is_integer() || d.integer() < 0) bad_tensor(path, name, "\"shape\" must hold whole numbers from 0 on");
    e.shape.push_back(d.integer());
    if (d.integer() == 0) empty = true;
    else if (__builtin_mul_overflow(bytes, d.integer(), &bytes))
      bad_tensor(path, name, "the shape has more bytes than 64 bits can count");
  }
  if (empty) bytes = 0;
  for (const Json& o : offsets->items())
    if (!o.is_integer() || o.integer() < 0)
      bad_tensor(path, name, "\"data_offsets\" must hold whole numbers from 0 on");
  const int64_t begin = offsets->items()[0].integer(), end = offsets->items()[1].integer();
  if (begin > end || uint64_t(end) > data_size)
    bad_tensor(path, name,
               format("bytes [%lld, %lld) are outside of the %zu bytes of data; the file is damaged or cut off",
                      static_cast<long long>(begin), static_cast<long long>(end), data_size));
  if (end - begin != bytes)
    bad_tensor(path, name, format("%s of %s needs %lld bytes, the offsets span %lld", shape_text(e.shape).c_str(),
                                  type->name, static_cast<long long>(bytes), static_cast<long long>(end - begin)));
  e.begin = size_t(begin);
  e.end = size_t(end);
  return e;
}

}  // namespace

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile());
  file->path_ = path;
  const Descriptor d{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (d.fd < 0 && (errno == ENOENT || errno == ENOTDIR)) fail(ErrorCode::NotFound, "%s: no such file", path.c_str());
  struct stat info;
  if (d.fd < 0 || ::fstat(d.fd, &info) != 0)
    fail(ErrorCode::Io, "%s: cannot open: %s", path.c_str(), system_reason(errno).c_str());
  if (!S_ISREG(info.st_mode))
    fail(ErrorCode::FileFormat, "%s: expected a safetensors file, got a %s", path.c_str(),
         S_ISDIR(info.st_mode) ? "folder" : "device or pipe");
  file->size_ = size_t(info.st_size);
  if (file->size_ < 8)
    fail(ErrorCode::FileFormat, "%s: %s; a safetensors file begins with 8 bytes of header length", path.c_str(),
         file->size_ ? format("only %zu bytes", file->size_).c_str() : "the file is empty");
  void* mapped = ::mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, d.fd, 0);
  if (mapped == MAP_FAILED) fail(ErrorCode::Io, "%s: cannot map: %s", path.c_str(), system_reason(errno).c_str());
  file->data_ = static_cast<char*>(mapped);
  file->parse_header();
  file->check_layout();
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (data_) ::munmap(data_, size_);
}

void SafetensorsFile::parse_header() {
  uint64_t length = 0;
  for (int i = 7; i >= 0; i--) length = length << 8 | uint8_t(data_[i]);
  if (length > kMaxHeader)
    fail(ErrorCode::FileFormat, "%s: header length %llu is above 100 MB; not a safetensors file", path_.c_str(),
         static_cast<unsigned long long>(length));
  if (length > size_ - 8)
    fail(ErrorCode::FileFormat, "%s: the header of %llu bytes is longer than the file (%zu bytes); the file is cut off",
         path_.c_str(), static_cast<unsigned long long>(length), size_);
  data_start_ = 8 + size_t(length);
  const Json header = Json::parse(std::string_view(data_ + 8, size_t(length)), path_ + ": header");
  if (!header.is(Json::Type::Object))
    fail(ErrorCode::FileFormat, "%s: the header must be an object, got %s", path_.c_str(), header.type_name());
  for (const auto& [name, value] : header.members()) {
    if (name != "__metadata__") {
      entries_.push_back(read_entry(path_, name, value, size_ - data_start_));
      continue;
    }
    if (!value.is(Json::Type::Object))
      fail(ErrorCode::FileFormat, "%s: \"__metadata__\" must be an object, got %s", path_.c_str(), value.type_name());
    for (const auto& [key, text] : value.members()) {
      if (!text.is(Json::Type::String))
        fail(ErrorCode::FileFormat, "%s: metadata \"%s\" must be a string, got %s", path_.c_str(), key.c_str(),
             text.type_name());
      metadata_[key] = text.string();
    }
  }
}

void SafetensorsFile::check_layout() {
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  size_t at = 0;
  for (Entry& e : entries_) {
    if (e.begin != at)
      bad_tensor(path_, e.name, format("begins at byte %zu of the data, the tensor before it ends at %zu: %s", e.begin,
                                       at, e.begin < at ? "they overlap" : "there is a hole"));
    at = e.end;
    e.begin += data_start_;
    e.end += data_start_;
  }
  if (at != size_ - data_start_)
    fail(ErrorCode::FileFormat, "%s: %zu bytes of data, the tensors have %zu", path_.c_str(), size_ - data_start_, at);
  for (size_t i = 0; i < entries_.size(); i++) index_[entries_[i].name] = i;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const Entry& e : entries_) names.push_back(e.name);
  return names;
}

const SafetensorsFile::Entry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end())
    fail(ErrorCode::NotFound, "%s: no tensor \"%s\" among %zu", path_.c_str(), name.c_str(), entries_.size());
  return entries_[found->second];
}

TensorInfo SafetensorsFile::describe(const std::string& name) const {
  const Entry& e = entry(name);
  const auto& dtype = find_dtype(e.dtype)->dtype;
  if (!dtype)
    fail(ErrorCode::Unsupported, "%s: tensor \"%s\" is %s; supported are F32, BF16, F16, I64, I32, U8", path_.c_str(),
         name.c_str(), e.dtype.c_str());
  if (e.shape.size() > size_t(Shape::kMaxRank))
    fail(ErrorCode::Unsupported, "%s: tensor \"%s\" has shape %s; at most %d dimensions are supported", path_.c_str(),
         name.c_str(), shape_text(e.shape).c_str(), Shape::kMaxRank);
  TensorInfo info;
  info.name = name;
  info.dtype = *dtype;
  for (const int64_t d : e.shape) info.shape.push_back(d);
  return info;
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const TensorInfo info = describe(name);
  const Entry& e = entry(name);
  char* bytes = data_ + e.begin;
  if (reinterpret_cast<uintptr_t>(bytes) % dtype_size(info.dtype) != 0) {
    Tensor copy = Tensor::empty(info.shape, info.dtype, kCpu);
    std::memcpy(copy.raw(), bytes, e.end - e.begin);
    return copy;
  }
  auto owner = std::const_pointer_cast<SafetensorsFile>(shared_from_this());
  return Tensor::from_storage(borrow(kCpu, bytes, e.end - e.begin, owner), 0, info.shape, info.dtype);
}

void SafetensorsFile::prefetch(const std::string& name) const {
  const Entry& e = entry(name);
  const size_t page = size_t(::sysconf(_SC_PAGESIZE));
  for (size_t at = e.begin / page * page; at < e.end; at += kReadAhead)
    ::madvise(data_ + at, std::min(kReadAhead, e.end - at), MADV_WILLNEED);
}

void SafetensorsFile::release(const std::string& name) const {
  const Entry& e = entry(name);
  const size_t page = size_t(::sysconf(_SC_PAGESIZE));
  const size_t first = (e.begin + page - 1) / page * page, last = e.end / page * page;
  if (last > first) ::madvise(data_ + first, last - first, MADV_DONTNEED);
}

}  // namespace df
