// The tape: what the ops recorded, run backwards (Wengert lists; reverse mode of automatic differentiation). Gradients
// belong to storages and have the same size and dtype, so that a slice or reshape of an activation is the same slice or
// reshape of its gradient and concatenations cost nothing.
#pragma once
#include <functional>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"
#include "ops/types.h"

namespace df {

class Tape;

/// Names a view of an activation without keeping its memory.
class TensorRef {
 public:
  TensorRef() = default;
  explicit TensorRef(const Tensor& t);
  uint64_t id() const { return id_; }
  const Shape& shape() const { return geometry_.shape(); }

 private:
  friend class Tape;
  uint64_t id_ = 0;        // of the storage; 0: an undefined tensor
  Tensor geometry_;        // of the view, over a storage without memory
};

/// Every part of a storage is written by one op at most while a tape records: an activation that is overwritten has no
/// gradient. Not thread-safe; ops of one thread record on it.
class Tape {
 public:
  /// Called once, in reverse order, with the gradient of the op's result.
  using Backward = std::function<void(Tape& tape, const Tensor& dy)>;

  /// The gradient of `parameter` is wanted and added to `gradient` (float32, contiguous, as many elements).
  void watch(const Tensor& parameter, const Tensor& gradient);
  /// The gradient of an input that is no parameter is wanted; see `gradient_of`. Needed for tests and for inputs only.
  void require(const Tensor& x);

  /// The tape that records on this thread, or null. Ops record when `needs` holds for one of their inputs.
  static Tape* current();
  /// The tape that `checkpoint` runs a block for without recording, or null.
  static Tape* observer();
  /// An op of the block that is run for the observer has an input whose gradient is wanted.
  static void note_needed();
  /// `t` is a watched parameter or depends on one.
  bool needs(const Tensor& t) const;
  /// Notes that y came from an op; `backward` computes the gradients of what it read. Throws UNSUPPORTED when y is float16.
  void record(const Tensor& y, Backward backward);

  // ---- for the backward functions
  /// Where the gradient of an activation goes; not wanted when the activation depends on no parameter. The caller must
  /// fill it before it asks for one of a part that overlaps.
  Gradient gradient(const TensorRef& x);
  /// The gradient of x += a · dy. Takes the memory of dy, which nothing reads any more, where that saves the copy: the
  /// last call of a backward function.
  void pass(const TensorRef& x, float a, const Tensor& dy);
  /// For a float32 activation that all items of a batch share (a position bias): `parts` gradients (parts, shape of x),
  /// to be added to, zero at first. What recorded x gets them as they are. Pairs of items have a part each, so that the
  /// items of a parameter's gradient are added up last, whatever the batch was cut into (see ops/backend.h). Undefined
  /// when not wanted.
  Tensor partial_gradients(const TensorRef& x, int64_t parts);
  /// Where the gradient of a parameter is added, in its shape; undefined when it is not watched.
  Tensor parameter_gradient(const Tensor& parameter) const;

  /// Runs everything recorded, from y with gradient dy (shape of y, overwritten), and forgets it. Parameter gradients
  /// are added to; gradients of `require`d inputs stay. Heeds cancellation; after an error the tape is empty, and
  /// parameter gradients hold a part of the sum.
  void backward(const Tensor& y, Tensor dy);
  /// Forgets everything recorded, and the gradients of `require`d inputs.
  void clear();
  /// The gradient of a `require`d input after `backward`, zero where nothing depended on it; all the parts where there
  /// are partial gradients.
  Tensor gradient_of(const Tensor& x);
  /// Ops recorded and not yet run.
  size_t size() const { return entries_.size(); }

 private:
  // Columns [begin, end) of all rows of a storage.
  struct Columns {
    int64_t begin, end;
  };
  struct Slot {
    std::shared_ptr<Storage> gradient;   // null until the first contribution
    int64_t row_stride = 0;              // of the first contribution
    std::vector<Columns> written;        // disjoint, in no order
    bool whole = false;                  // everything is written
    int64_t parts = 0;                   // see partial_gradients; 0: an ordinary gradient
    int producers = 0;                   // recorded ops that wrote a part of the storage
    bool required = false;
  };
  struct Entry {
    TensorRef y;
    Backward backward;
  };
  Slot* find(const TensorRef& x);
  Tensor allocated(Slot& slot, const Tensor& view) const;
  void fill_gaps(Slot& slot, const Tensor& view) const;
  Tensor result_gradient(const TensorRef& y);
  void release_producer(const TensorRef& y);

  std::unordered_map<uint64_t, Tensor> parameters_;  // storage → gradient
  std::unordered_map<uint64_t, Slot> slots_;
  std::vector<Entry> entries_;
  bool dy_is_free_ = false;  // nothing but the running backward function reads its dy
};

/// Ops of this thread record on `tape` (null: on none) for the lifetime of the scope.
class RecordScope {
 public:
  explicit RecordScope(Tape* tape);
  ~RecordScope();
  RecordScope(const RecordScope&) = delete;
  RecordScope& operator=(const RecordScope&) = delete;

 private:
  Tape* previous_;
};

/// Runs `block(into)` without keeping its activations: only what `block` has captured stays, and it is run again,
/// recording, when its gradient is due (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Without a
/// recording tape, and when none of its ops would have recorded, it is just run. `block` must give the same bits every time, and must write its result into the
/// given tensor when that is defined.
Tensor checkpoint(const Tensor& into, std::function<Tensor(const Tensor& into)> block);

}  // namespace df
