#pragma once
#include <memory>

#include "core/device.h"
#include "core/dtype.h"
#include "core/shape.h"
#include "core/storage.h"

namespace df {

/// Row-major storage + shape + dtype + device: an owner or a view. Rows (the last dimension) are dense; consecutive rows
/// are `row_stride()` elements apart, so a slice of the channels of an NHWC tensor is a view that every op can read and
/// write: this is how concatenations are written in place. Copying a Tensor copies the handle.
class Tensor {
 public:
  Tensor() = default;
  /// Uninitialised memory.
  static Tensor empty(const Shape& shape, DType dtype, Device device);
  static Tensor zeros(const Shape& shape, DType dtype, Device device);
  static Tensor from_storage(std::shared_ptr<Storage> storage, size_t byte_offset, const Shape& shape, DType dtype);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t rows() const { return shape_.rows(); }
  int64_t numel() const { return shape_.numel(); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device : kCpu; }
  int64_t row_stride() const { return row_stride_; }
  bool contiguous() const { return row_stride_ == (shape_.rank() ? shape_[-1] : 1) || rows() <= 1; }
  size_t bytes() const { return size_t(numel()) * dtype_size(dtype_); }

  const std::shared_ptr<Storage>& storage() const { return storage_; }
  /// Bytes from the beginning of the storage.
  size_t byte_offset() const { return offset_; }
  /// The same view of another storage of at least the same size.
  Tensor view_of(std::shared_ptr<Storage> storage) const;

  /// Null on the meta device. `data<T>()` throws INTERNAL when T is not the tensor's type.
  void* raw() const { return storage_ && storage_->data ? static_cast<char*>(storage_->data) + offset_ : nullptr; }
  template <class T> T* data() const {
    check_type(dtype_of<T>());
    return static_cast<T*>(raw());
  }

  /// Same elements, another shape. A strided view keeps its last dimension. Throws INVALID_ARGUMENT otherwise.
  Tensor reshape(const Shape& shape) const;
  /// View of channels [start, start + length) of the last dimension.
  Tensor slice_last(int64_t start, int64_t length) const;
  /// View of items [start, start + length) of the first dimension.
  Tensor slice_first(int64_t start, int64_t length) const;

 private:
  void check_type(DType t) const;
  std::shared_ptr<Storage> storage_;
  size_t offset_ = 0;  // bytes
  Shape shape_;
  DType dtype_ = DType::F32;
  int64_t row_stride_ = 0;
};

/// Sets a contiguous tensor to zero; on the meta device nothing happens.
void set_zero(const Tensor& t);
/// Copies the elements of x into y, which has its shape and dtype and may be on another device. Throws INVALID_ARGUMENT.
void transfer(const Tensor& y, const Tensor& x);

}  // namespace df
