#include "autograd/tape.h"

#include <algorithm>

#include "core/error.h"
#include "core/execution.h"
#include "ops/backend.h"

namespace df {
namespace {

thread_local Tape* recording = nullptr;
thread_local Tape* observing = nullptr;  // see checkpoint
thread_local bool needed = false;

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
  if (storage->device.type == DeviceType::Meta || begin == end) return;
  const Tensor all = Tensor::from_storage(storage, 0, {rows, stride}, dtype);
  if (end - begin == stride) return set_zero(all);
  Tensor columns = all.slice_last(begin, end - begin);
  backend_for(storage->device).copy(columns, Tensor::zeros(columns.shape(), dtype, storage->device));
}

// All of its storage, in order.
bool is_whole(const Tensor& view) {
  return view.contiguous() && view.byte_offset() == 0 && view.bytes() == view.storage()->requested;
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
Tape* Tape::observer() { return observing; }
void Tape::note_needed() { needed = true; }

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
  if (y.dtype() == DType::F16) fail(ErrorCode::Unsupported, "a gradient is wanted of a float16 tensor: float16 is for inference");
  slots_[y.storage()->id].producers++;
  entries_.push_back({TensorRef(y), std::move(backward)});
}

Tape::Slot* Tape::find(const TensorRef& x) {
  const auto found = slots_.find(x.id());
  return found == slots_.end() ? nullptr : &found->second;
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
  if (slot.written.empty()) {
    const int64_t all = elements(view);
    zero_columns(slot.gradient, view.dtype(), 1, all, 0, all);
  } else {
    const int64_t stride = slot.row_stride, rows = elements(view) / stride;
    std::sort(slot.written.begin(), slot.written.end(), [](Columns a, Columns b) { return a.begin < b.begin; });
    int64_t at = 0;
    for (const Columns& c : slot.written) {
      zero_columns(slot.gradient, view.dtype(), rows, stride, at, c.begin);
      at = c.end;
    }
    zero_columns(slot.gradient, view.dtype(), rows, stride, at, stride);
  }
  slot.whole = true;
}

Gradient Tape::gradient(const TensorRef& x) {
  Slot* slot = find(x);
  if (!slot) return {};
  const Tensor into = allocated(*slot, x.geometry_);
  if (slot->whole) return {into, true};
  const Placement p = place(x.geometry_, slot->row_stride);
  const auto overlaps = [&](const Columns& c) { return c.begin < p.end && p.begin < c.end; };
  const auto same = [&](const Columns& c) { return c.begin == p.begin && c.end == p.end; };
  if (p.begin >= 0) {
    if (std::any_of(slot->written.begin(), slot->written.end(), same)) return {into, true};
    if (std::none_of(slot->written.begin(), slot->written.end(), overlaps)) {
      slot->written.push_back({p.begin, p.end});
      slot->whole = p.end - p.begin == slot->row_stride;
      return {into, false};
    }
  }
  fill_gaps(*slot, x.geometry_);
  return {into, true};
}

void Tape::pass(const TensorRef& x, float a, const Tensor& dy) {
  Slot* slot = find(x);
  if (!slot) return;
  const Tensor& view = x.geometry_;
  const bool alike = is_whole(view) && is_whole(dy) && view.dtype() == dy.dtype() &&
                     view.storage()->requested == dy.storage()->requested && view.device() == dy.device();
  if (dy_is_free_ && a == 1 && alike && !slot->gradient) {
    slot->gradient = dy.storage();
    slot->row_stride = view.row_stride();
    slot->whole = true;
    dy_is_free_ = false;
    return;
  }
  backend_for(dy.device()).scale_backward(gradient(x), a, dy);
}

Tensor Tape::partial_gradients(const TensorRef& x, int64_t parts) {
  Slot* slot = find(x);
  if (!slot) return {};
  const Tensor& view = x.geometry_;
  Shape shape{parts};
  for (int i = 0; i < view.shape().rank(); i++) shape.push_back(view.dim(i));
  if (!slot->gradient) {
    slot->gradient = Tensor::zeros(shape, view.dtype(), view.device()).storage();
    slot->whole = true;
    slot->parts = parts;
  }
  if (!is_whole(view) || slot->parts != parts || view.dtype() != DType::F32)
    fail(ErrorCode::Internal, "tape: %lld partial gradients of %s, expected %lld", static_cast<long long>(parts),
         view.shape().str().c_str(), static_cast<long long>(slot->parts));
  return Tensor::from_storage(slot->gradient, 0, shape, view.dtype());
}

Tensor Tape::parameter_gradient(const Tensor& parameter) const {
  if (!parameter.defined()) return {};
  const auto found = parameters_.find(parameter.storage()->id);
  return found == parameters_.end() ? Tensor() : found->second.reshape(parameter.shape());
}

// The gradient of a recorded result; undefined when nothing depended on it.
Tensor Tape::result_gradient(const TensorRef& y) {
  Slot& slot = slots_.at(y.id());
  if (!slot.gradient) return {};
  if (slot.parts) return partial_gradients(y, slot.parts);
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

void Tape::backward(const Tensor& y, Tensor dy) {
  DF_CHECK(needs(y), "backward: y must come from a recorded op, got a tensor that depends on no parameter");
  DF_CHECK(dy.defined() && dy.shape() == y.shape() && dy.dtype() == y.dtype() && dy.device() == y.device(),
           "backward: dy must be like y, %s %s, got %s %s", dtype_name(y.dtype()), y.shape().str().c_str(),
           dtype_name(dy.dtype()), dy.shape().str().c_str());
  RecordScope pause(nullptr);
  try {
    dy_is_free_ = true;
    pass(TensorRef(y), 1, dy);
    dy = Tensor();
    while (!entries_.empty()) {
      begin_op();  // heeds cancellation
      const Entry entry = std::move(entries_.back());
      entries_.pop_back();
      const Slot& slot = slots_.at(entry.y.id());
      dy_is_free_ = slot.producers == 1 && !slot.required;
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
  for (auto it = slots_.begin(); it != slots_.end();) {
    if (!it->second.required) {
      it = slots_.erase(it);
      continue;
    }
    it->second = Slot();
    (it++)->second.required = true;
  }
}

Tensor Tape::gradient_of(const Tensor& x) {
  const auto found = slots_.find(x.storage()->id);
  DF_CHECK(found != slots_.end() && found->second.required, "gradient_of: x must be a required input");
  if (found->second.parts) return partial_gradients(TensorRef(x), found->second.parts);
  fill_gaps(found->second, x);
  return x.view_of(found->second.gradient);
}

namespace {

// Ops note whether they would have recorded on `tape`, and do not.
class ObserveScope {
 public:
  explicit ObserveScope(Tape* tape) : pause_(nullptr) {
    observing = tape;
    needed = false;
  }
  ~ObserveScope() { observing = nullptr; }

 private:
  RecordScope pause_;
};

}  // namespace

Tensor checkpoint(const Tensor& into, std::function<Tensor(const Tensor& into)> block) {
  Tape* tape = Tape::current();
  if (!tape) return block(into);
  Tensor y;
  {
    ObserveScope observe(tape);
    y = block(into);
    if (!needed) return y;
  }
  tape->record(y, [block = std::move(block)](Tape& t, const Tensor& dy) {
    Tensor again;
    {
      RecordScope record(&t);
      again = block({});
    }
    t.pass(TensorRef(again), 1, dy);
  });
  return y;
}

}  // namespace df
