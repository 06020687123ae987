#include "ops/recording.h"

#include <algorithm>

#include "core/error.h"

namespace df::ops {
namespace {

// Whether the bytes from the first to the last element of two views of one storage meet, column by column.
bool overlap(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined() || a.storage() != b.storage()) return false;
  const auto end = [](const Tensor& t) {
    return t.byte_offset() + size_t((t.rows() - 1) * t.row_stride() + t.dim(-1)) * dtype_size(t.dtype());
  };
  if (a.byte_offset() >= end(b) || b.byte_offset() >= end(a)) return false;
  const int64_t stride = a.row_stride() * int64_t(dtype_size(a.dtype()));
  if (b.row_stride() * int64_t(dtype_size(b.dtype())) != stride || !stride) return true;
  // rows of one pitch: the columns decide, unless one of them wraps around
  const int64_t a0 = int64_t(a.byte_offset()) % stride, a1 = a0 + a.dim(-1) * int64_t(dtype_size(a.dtype()));
  const int64_t b0 = int64_t(b.byte_offset()) % stride, b1 = b0 + b.dim(-1) * int64_t(dtype_size(b.dtype()));
  return a1 > stride || b1 > stride || (a0 < b1 && b0 < a1);
}

}  // namespace

Tape* recorder(std::initializer_list<const Tensor*> inputs) {
  Tape* tape = Tape::current();
  Tape* either = tape ? tape : Tape::observer();
  if (!either) return nullptr;
  const bool wanted = std::any_of(inputs.begin(), inputs.end(), [&](const Tensor* t) { return either->needs(*t); });
  if (wanted && !tape) Tape::note_needed();
  return wanted ? tape : nullptr;
}

void refuse_gradient(const char* op, const Tensor& x) {
  if (recorder({&x})) fail(ErrorCode::Unsupported, "%s: a gradient is wanted of its input, but it has none", op);
}

void check_distinct(const char* op, std::initializer_list<const Tensor*> inputs) {
  for (auto a = inputs.begin(); a != inputs.end(); ++a)
    for (auto b = a + 1; b != inputs.end(); ++b)
      if (overlap(**a, **b))
        fail(ErrorCode::Unsupported, "%s: the gradient of inputs that share memory is not defined: copy one of them", op);
}

}  // namespace df::ops
