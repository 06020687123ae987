#include "core/tensor.h"

#include <cstring>

#include "core/device_runtime.h"
#include "core/error.h"
#include "core/parallel.h"

namespace df {

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  return from_storage(allocate(device, size_t(shape.numel()) * dtype_size(dtype)), 0, shape, dtype);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  set_zero(t);
  return t;
}

Tensor Tensor::from_storage(std::shared_ptr<Storage> storage, size_t byte_offset, const Shape& shape, DType dtype) {
  const size_t bytes = size_t(shape.numel()) * dtype_size(dtype);
  DF_CHECK(storage && byte_offset + bytes <= storage->bytes, "tensor: %s of %s at byte %zu does not fit its storage",
           shape.str().c_str(), dtype_name(dtype), byte_offset);
  Tensor t;
  t.storage_ = std::move(storage);
  t.offset_ = byte_offset;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.row_stride_ = shape.rank() ? shape[-1] : 1;
  return t;
}

Tensor Tensor::view_of(std::shared_ptr<Storage> storage) const {
  DF_CHECK(storage && storage->bytes >= storage_->requested, "tensor: a view of %s does not fit the other storage",
           shape_.str().c_str());
  Tensor t = *this;
  t.storage_ = std::move(storage);
  return t;
}

Tensor Tensor::reshape(const Shape& shape) const {
  const bool same_rows = shape.rank() && shape_.rank() && shape[-1] == shape_[-1];
  DF_CHECK(shape.numel() == numel() && (contiguous() || same_rows), "reshape: cannot view %s%s as %s",
           shape_.str().c_str(), contiguous() ? "" : " (strided)", shape.str().c_str());
  Tensor t = *this;
  t.shape_ = shape;
  if (!same_rows) t.row_stride_ = shape.rank() ? shape[-1] : 1;
  return t;
}

Tensor Tensor::slice_last(int64_t start, int64_t length) const {
  DF_CHECK(shape_.rank() && start >= 0 && length >= 0 && start + length <= shape_[-1],
           "slice_last: [%lld, %lld) is outside of %s", static_cast<long long>(start),
           static_cast<long long>(start + length), shape_.str().c_str());
  Tensor t = *this;
  t.shape_.set(-1, length);
  t.offset_ += size_t(start) * dtype_size(dtype_);
  return t;
}

Tensor Tensor::slice_first(int64_t start, int64_t length) const {
  DF_CHECK(shape_.rank() >= 2 && start >= 0 && length >= 0 && start + length <= shape_[0],
           "slice_first: [%lld, %lld) is outside of %s", static_cast<long long>(start),
           static_cast<long long>(start + length), shape_.str().c_str());
  Tensor t = *this;
  int64_t rows_per_item = 1;
  for (int i = 1; i + 1 < shape_.rank(); i++) rows_per_item *= shape_[i];
  t.shape_.set(0, length);
  t.offset_ += size_t(start * rows_per_item * row_stride_) * dtype_size(dtype_);
  return t;
}

void Tensor::check_type(DType t) const {
  if (t != dtype_) fail(ErrorCode::Internal, "tensor: %s data read as %s", dtype_name(dtype_), dtype_name(t));
}

void set_zero(const Tensor& t) {
  DF_CHECK(t.contiguous(), "set_zero: %s must be contiguous", t.shape().str().c_str());
  if (t.device().type == DeviceType::Meta) return;
  if (t.device().type == DeviceType::Cuda) return device_runtime().set_zero(t.device(), t.raw(), t.bytes());
  char* data = static_cast<char*>(t.raw());
  parallel_ranges(int64_t(t.bytes()), int64_t(4) << 20,
                  [&](int64_t begin, int64_t end) { std::memset(data + begin, 0, size_t(end - begin)); });
}

void transfer(const Tensor& y, const Tensor& x) {
  DF_CHECK(x.shape() == y.shape() && x.dtype() == y.dtype(), "transfer: %s %s does not fit %s %s", dtype_name(x.dtype()),
           x.shape().str().c_str(), dtype_name(y.dtype()), y.shape().str().c_str());
  const DeviceType from = x.device().type, to = y.device().type;
  if (to == DeviceType::Meta || x.numel() == 0) return;
  DF_CHECK(from != DeviceType::Meta, "transfer: the meta device has no values");
  const size_t size = dtype_size(x.dtype()), rows = size_t(x.rows()), row = x.bytes() / rows;
  const DeviceRows source{x.device(), x.raw(), x.contiguous() ? row : size_t(x.row_stride()) * size};
  const DeviceRows target{y.device(), y.raw(), y.contiguous() ? row : size_t(y.row_stride()) * size};
  if (from == DeviceType::Cuda || to == DeviceType::Cuda) return device_runtime().copy(target, source, row, rows);
  if (x.contiguous() && y.contiguous())
    return parallel_ranges(int64_t(x.bytes()), int64_t(4) << 20, [&](int64_t begin, int64_t end) {
      std::memcpy(static_cast<char*>(target.data) + begin, static_cast<const char*>(source.data) + begin, size_t(end - begin));
    });
  for (size_t r = 0; r < rows; r++)
    std::memcpy(static_cast<char*>(target.data) + r * target.pitch, static_cast<const char*>(source.data) + r * source.pitch, row);
}

}  // namespace df
