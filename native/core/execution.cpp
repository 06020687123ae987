#include "core/execution.h"

#include "core/error.h"
#include "core/float_environment.h"
#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace df {

unsigned enable_flush_to_zero() {
#if defined(__x86_64__) || defined(_M_X64)
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040);  // FTZ | DAZ
  return mode;
#else
  return 0;
#endif
}

void restore_float_mode(unsigned mode) {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_setcsr(mode);
#else
  (void)mode;
#endif
}

namespace {
thread_local Execution default_execution;
thread_local Execution* current_execution = nullptr;
thread_local unsigned outer_mode = 0;
}  // namespace

Execution& Execution::current() { return current_execution ? *current_execution : default_execution; }

ExecutionScope::ExecutionScope(Execution& execution) : previous_(current_execution) {
  if (!previous_) outer_mode = enable_flush_to_zero();
  current_execution = &execution;
}

ExecutionScope::~ExecutionScope() {
  current_execution = previous_;
  if (!previous_) restore_float_mode(outer_mode);
}

void begin_op(double flops) {
  Execution& e = Execution::current();
  if (e.cancelled && e.cancelled->load(std::memory_order_relaxed))
    fail(ErrorCode::Cancelled, "the operation was cancelled");
  if (e.work) e.work->flops += flops;
}

}  // namespace df
