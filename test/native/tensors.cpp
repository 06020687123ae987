#include "tensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <vector>

#include "cpu/reference/values.h"
#include "harness.h"
#include "ops/ops.h"

namespace df::test {
namespace {

// Elements before a row and in all that are not its own.
struct Margin {
  int64_t before, total;
};
Margin margin(Layout layout) { return layout == Layout::Aligned ? Margin{8, 24} : Margin{3, 7}; }
constexpr unsigned char kGuard = 0xff;  // NaN in every floating dtype

// Memory whose last byte lies before an inaccessible page.
std::shared_ptr<Storage> page_end(size_t bytes) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE)), body = (bytes + page - 1) / page * page;
  void* base = mmap(nullptr, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) fail(ErrorCode::OutOfMemory, "tests: mmap of %zu bytes failed", body + page);
  mprotect(static_cast<char*>(base) + body, page, PROT_NONE);
  std::memset(base, kGuard, body);
  std::shared_ptr<void> owner(base, [=](void* p) { munmap(p, body + page); });
  return borrow(kCpu, static_cast<char*>(base) + (body - bytes), bytes, owner);
}

}  // namespace

Random::Random(const std::string& seed) : state_(0xcbf29ce484222325u) {
  for (unsigned char c : seed) state_ = (state_ ^ c) * 0x100000001b3u;  // FNV-1a
}

uint64_t Random::bits() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double Random::uniform(double low, double high) { return low + (high - low) * double(bits() >> 11) * 0x1p-53; }

const char* layout_name(Layout layout) {
  return layout == Layout::Dense ? "" : layout == Layout::Strided ? " strided" : " aligned";
}

Tensor guarded(const Shape& shape, DType dtype, Layout layout) {
  const size_t size = dtype_size(dtype);
  if (layout == Layout::Dense) return Tensor::from_storage(page_end(size_t(shape.numel()) * size), 0, shape, dtype);
  const Margin m = margin(layout);
  const int64_t apart = shape[-1] + m.total, stride = layout == Layout::Aligned ? (apart + 7) / 8 * 8 : apart;
  const Shape wide{shape.rows() + 1, stride};
  Tensor all = Tensor::from_storage(page_end(size_t(wide.numel()) * size), 0, wide, dtype);
  return all.slice_first(0, shape.rows()).slice_last(m.before, shape[-1]).reshape(shape);
}

void check_guard(const Tensor& t, Layout layout) {
  const size_t size = dtype_size(t.dtype());
  if (layout == Layout::Dense) {  // the elements before the tensor, as far as its first page goes
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), before = reinterpret_cast<uintptr_t>(t.raw()) % page;
    for (size_t i = 1; i <= before; i++)
      if (static_cast<unsigned char*>(t.raw())[-std::ptrdiff_t(i)] != kGuard)
        fail_case("%zu bytes before the output were written", i);
    return;
  }
  const size_t before = size_t(margin(layout).before);
  const unsigned char* first = static_cast<unsigned char*>(t.raw()) - before * size;
  const size_t stride = size_t(t.row_stride()) * size, row = size_t(t.dim(-1)) * size, offset = before * size;
  for (int64_t r = 0; r <= t.rows(); r++)
    for (size_t i = 0; i < stride; i++) {
      const bool inside = r < t.rows() && i >= offset && i < offset + row;
      if (!inside && first[size_t(r) * stride + i] != kGuard)
        fail_case("row %lld of the output: element %lld outside of it was written", static_cast<long long>(r),
                  static_cast<long long>(i / size) - static_cast<long long>(before));
    }
}

void fill(const Tensor& t, const std::function<double(int64_t)>& f) {
  const int64_t columns = t.dim(-1);
  std::vector<double> row(static_cast<size_t>(columns));
  for (int64_t r = 0; r < t.rows(); r++) {
    for (int64_t c = 0; c < columns; c++) row[size_t(c)] = f(r * columns + c);
    reference::store_row(t, r, row.data());
  }
}

Tensor random_tensor(Random& random, const Shape& shape, DType dtype, Layout layout, double low, double high) {
  Tensor t = guarded(shape, dtype, layout);
  fill(t, [&](int64_t) { return random.uniform(low, high); });
  return t;
}

Tensor normal_tensor(Random& random, const Shape& shape, DType dtype) {  // Box & Muller 1958
  Tensor t = Tensor::empty(shape, dtype, kCpu);
  fill(t, [&](int64_t) {
    return std::sqrt(-2 * std::log(1 - random.uniform(0, 1))) * std::cos(2 * M_PI * random.uniform(0, 1));
  });
  return t;
}

void poison(const Tensor& t) {
  const auto values = reference::load(t);
  const int64_t n = t.numel();
  fill(t, [&](int64_t i) {
    return i == 0 ? NAN : i == n / 2 ? INFINITY : i == n - 1 ? -INFINITY : values[size_t(i)];
  });
}

Tensor exact(const Tensor& t) {
  if (!t.defined()) return t;
  const auto values = reference::load(t);
  Tensor y = Tensor::empty(t.shape(), DType::F32, kCpu);
  fill(y, [&](int64_t i) { return values[size_t(i)]; });
  return y;
}

Tensor magnitude(const Tensor& t) {
  if (!t.defined()) return t;
  const auto values = reference::load(t);
  Tensor y = Tensor::empty(t.shape(), DType::F32, kCpu);
  fill(y, [&](int64_t i) { return std::abs(values[size_t(i)]); });
  return y;
}

Tensor tensor_of(const Shape& shape, const std::vector<double>& values) {
  CHECK(size_t(shape.numel()) == values.size());
  Tensor t = Tensor::empty(shape, DType::F32, kCpu);
  fill(t, [&](int64_t i) { return values[size_t(i)]; });
  return t;
}

Tensor ints(const Shape& shape, const std::vector<int32_t>& values) {
  CHECK(size_t(shape.numel()) == values.size());
  Tensor t = Tensor::empty(shape, DType::I32, kCpu);
  std::memcpy(t.raw(), values.data(), t.bytes());
  return t;
}

Tensor on(const Tensor& t, Device device) {
  return t.defined() && device != t.device() ? ops::to_device(t, device) : t;
}

}  // namespace df::test
