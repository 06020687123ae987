#include "autograd/tape.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/execution.h"

namespace df {
namespace {

thread_local Tape* recording = nullptr;

// The columns of a view in a storage whose rows are `stride` elements; begin < 0 when the view has another geometry.
struct Placement {
  int64_t begin = -1, end = -1;
};

int64_t elements(const Tensor& view) { return int64_t(view.storage()->requested / dtype_size(view.dtype())); }

Placement place(const Tensor& view, int64_t stride) {
  const int64_t first = int64_t(view.byte_offset() / dtype_size(view.dtype())), width = view.dim(-1);
  const bool all_rows = view.row_stride() == stride && view.rows() * stride == elements(view) && first + width <= stride;
  if (!all_rows) return {};
  return {first, first + width};
}

void zero_columns(const std::shared_ptr<Storage>& storage, DType dtype, int64_t rows, int64_t stride, int64_t begin,
                  int64_t end) {
  if (!storage->data || begin == end) return;
  const size_t size = dtype_size(dtype);
  char* first = static_cast<char*>(storage->data) + size_t(begin) * size;
  if (end - begin == stride) {
    std::memset(first, 0, size_t(rows * stride) * size);
    return;
  }
  for (int64_t r = 0; r < rows; r++) std::memset(first + size_t(r * stride) * size, 0, size_t(end - begin) * size);
}

}  // namespace

TensorRef::TensorRef(const Tensor& t) {
  if (!t.defined()) return;
  id_ = t.storage()->id;
  auto shell = std::make_shared<Storage>();
  shell->device = t.device();
  shell->bytes = t.storage()->bytes;
  shell->requested = t.storage()->requested;
  geometry_ = t.view_of(std::move(shell));
}

RecordScope::RecordScope(Tape* tape) : previous_(recording) { recording = tape; }
RecordScope::~RecordScope() { recording = previous_; }
Tape* Tape::current() { return recording; }

void Tape::watch(const Tensor& parameter, const Tensor& gradient) {
  DF_CHECK(gradient.defined() && gradient.dtype() == DType::F32 && gradient.contiguous() &&
               gradient.numel() == parameter.numel(),
           "tape: the gradient of a parameter must be float32 with %lld elements",
           static_cast<long long>(parameter.numel()));
  parameters_[parameter.storage()->id] = gradient;
}

void Tape::require(const Tensor& x) { slots_[x.storage()->id].required = true; }

bool Tape::needs(const Tensor& t) const {
  if (!t.defined()) return false;
  return parameters_.count(t.storage()->id) || slots_.count(t.storage()->id);
}

void Tape::record(const Tensor& y, Backward backward) {
  slots_[y.storage()->id].producers++;
  entries_.push_back({TensorRef(y), std::move(backward)});
}

// The view of the slot's gradient, which exists from now on.
Tensor Tape::allocated(Slot& slot, const Tensor& view) const {
  if (!slot.gradient) {
    slot.gradient = allocate(view.device(), view.storage()->requested);
    slot.row_stride = view.row_stride();
  }
  return view.view_of(slot.gradient);
}

// Zero where nothing is written yet.
void Tape::fill_gaps(Slot& slot, const Tensor& view) const {
  if (slot.whole) return;
  allocated(slot, view);
  const int64_t stride = slot.row_stride, rows = stride ? elements(view) / stride : 0;
  std::sort(slot.written.begin(), slot.written.end(), [](Columns a, Columns b) { return a.begin < b.begin; });
  int64_t at = 0;
  for (const Columns& c : slot.written) {
    zero_columns(slot.gradient, view.dtype(), rows, stride, at, c.begin);
    at = c.end;
  }
  if (slot.written.empty() && slot.gradient->data)
    std::memset(slot.gradient->data, 0, slot.gradient->requested);
  else
    zero_columns(slot.gradient, view.dtype(), rows, stride, at, stride);
  slot.whole = true;
}

Gradient Tape::gradient(const TensorRef& x) {
  if (!x.id()) return {};
  const auto found = slots_.find(x.id());
  if (found == slots_.end()) return {};
  Slot& slot = found->second;
  const Tensor into = allocated(slot, x.geometry_);
  if (slot.whole) return {into, true};
  const Placement p = place(x.geometry_, slot.row_stride);
  const auto overlaps = [&](const Columns& c) { return c.begin < p.end && p.begin < c.end; };
  const auto same = [&](const Columns& c) { return c.begin == p.begin && c.end == p.end; };
  if (p.begin >= 0) {
    if (std::any_of(slot.written.begin(), slot.written.end(), same)) return {into, true};
    if (std::none_of(slot.written.begin(), slot.written.end(), overlaps)) {
      slot.written.push_back({p.begin, p.end});
      slot.whole = p.end - p.begin == slot.row_stride;
      return {into, false};
    }
  }
  fill_gaps(slot, x.geometry_);
  return {into, true};
}

Tensor Tape::parameter_gradient(const Tensor& parameter) const {
  if (!parameter.defined()) return {};
  const auto found = parameters_.find(parameter.storage()->id);
  return found == parameters_.end() ? Tensor() : found->second;
}

// The gradient of a recorded result; undefined when nothing depended on it.
Tensor Tape::result_gradient(const TensorRef& y) {
  Slot& slot = slots_[y.id()];
  if (!slot.gradient) return {};
  const Placement p = place(y.geometry_, slot.row_stride);
  const auto covers = [&](const Columns& c) { return p.begin >= c.begin && p.begin >= 0 && p.end <= c.end; };
  const auto overlaps = [&](const Columns& c) { return c.begin < p.end && p.begin < c.end; };
  if (!slot.whole && std::none_of(slot.written.begin(), slot.written.end(), covers)) {
    if (p.begin >= 0 && std::none_of(slot.written.begin(), slot.written.end(), overlaps)) return {};
    fill_gaps(slot, y.geometry_);
  }
  return y.geometry_.view_of(slot.gradient);
}

// The storage's gradient goes when the last op that wrote a part of the storage has run.
void Tape::release_producer(const TensorRef& y) {
  const auto found = slots_.find(y.id());
  if (found != slots_.end() && --found->second.producers == 0 && !found->second.required) slots_.erase(found);
}

void Tape::adopt(const Tensor& y, const Tensor& dy) {
  Slot& slot = slots_[y.storage()->id];
  const Gradient into = gradient(TensorRef(y));
  if (slot.whole && !into.add && dy.contiguous() && y.contiguous() && dy.byte_offset() == 0 &&
      dy.storage()->requested == y.storage()->requested) {
    slot.gradient = dy.storage();  // no copy
    return;
  }
  const size_t row = size_t(y.dim(-1)) * dtype_size(y.dtype());
  if (!into.into.raw()) return;
  for (int64_t r = 0; r < y.rows(); r++)
    std::memcpy(static_cast<char*>(into.into.raw()) + size_t(r * into.into.row_stride()) * dtype_size(y.dtype()),
                static_cast<const char*>(dy.raw()) + size_t(r * dy.row_stride()) * dtype_size(y.dtype()), row);
}

void Tape::backward(const Tensor& y, const Tensor& dy) {
  DF_CHECK(needs(y), "backward: y must come from a recorded op, got a tensor that depends on no parameter");
  DF_CHECK(dy.shape() == y.shape() && dy.dtype() == y.dtype() && dy.device() == y.device(),
           "backward: dy must be like y, %s %s, got %s %s", dtype_name(y.dtype()), y.shape().str().c_str(),
           dtype_name(dy.dtype()), dy.shape().str().c_str());
  RecordScope pause(nullptr);
  try {
    adopt(y, dy);
    while (!entries_.empty()) {
      begin_op();  // heeds cancellation
      const Entry entry = std::move(entries_.back());
      entries_.pop_back();
      if (const Tensor gradient = result_gradient(entry.y); gradient.defined()) entry.backward(*this, gradient);
      release_producer(entry.y);
    }
  } catch (...) {
    clear();
    throw;
  }
}

void Tape::clear() {
  entries_.clear();
  for (auto it = slots_.begin(); it != slots_.end();) it = it->second.required ? std::next(it) : slots_.erase(it);
}

Tensor Tape::gradient_of(const Tensor& x) {
  const auto found = slots_.find(x.storage()->id);
  DF_CHECK(found != slots_.end() && found->second.required, "gradient_of: x must be a required input");
  fill_gaps(found->second, x);
  return x.view_of(found->second.gradient);
}

Tensor checkpoint(const Tensor& into, std::function<Tensor(const Tensor& into)> block) {
  Tape* tape = Tape::current();
  if (!tape) return block(into);
  Tensor y;
  {
    RecordScope pause(nullptr);
    y = block(into);
  }
  tape->record(y, [block = std::move(block)](Tape& t, const Tensor& dy) {
    RecordScope record(&t);
    t.adopt(block({}), dy);
  });
  return y;
}

}  // namespace df
