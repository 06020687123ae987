// What the ops of the running command may use and must heed: threads, the cancel flag, the work counter.
#pragma once
#include <atomic>
#include <cstdint>

#include "core/parallel.h"

namespace df {

/// Work done by the ops of one execution: 2 × multiply-adds of convolutions, linears and attention.
struct WorkCounter {
  double flops = 0;
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
