// What the ops of the running command may use and must heed: threads, the cancel flag, the work counter.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/parallel.h"

namespace df {

/// Work done by the ops of one execution.
struct WorkCounter {
  double flops = 0;          ///< 2 × multiply-adds of convolutions (of the direct form), linears and attention
  size_t scratch_bytes = 0;  ///< most that the kernels of one op keep between calls; counted on the meta device only
};

struct Execution {
  ThreadPool* pool = nullptr;
  const std::atomic<bool>* cancelled = nullptr;
  WorkCounter* work = nullptr;

  /// The execution of this thread, never null (a default one without pool when no scope is open).
  static Execution& current();
};

/// Makes `execution` current on this thread for the lifetime of the scope.
class ExecutionScope {
 public:
  explicit ExecutionScope(Execution& execution);
  ~ExecutionScope();
  ExecutionScope(const ExecutionScope&) = delete;
  ExecutionScope& operator=(const ExecutionScope&) = delete;

 private:
  Execution* previous_;
};

/// Every op calls this first: throws CANCELLED when the flag of the current execution is set, then counts the work.
void begin_op(double flops = 0);

}  // namespace df
