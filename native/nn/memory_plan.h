// What a model and one step of it need, from the meta backend: no arithmetic is done.
#pragma once
#include "core/execution.h"
#include "core/storage.h"

namespace df {

struct MemoryPlan {
  size_t weight_bytes = 0;      ///< what stays: packed weights; in training parameters, gradients, moments and EMA
  size_t activation_bytes = 0;  ///< largest sum of live tensors of one step beyond the weights, and kernel scratch
  double flops = 0;             ///< of one step
};

/// Measures `run(WorkCounter&)` on the device `meta`; what was allocated there since `base` bytes are the weights. `run`
/// gets the counter, so that it can leave work out that is not part of a step.
template <class F> MemoryPlan measure_memory(Device meta, size_t base, F run) {
  MemoryPlan plan;
  plan.weight_bytes = memory_stats(meta).current - base;
  reset_peak(meta);
  WorkCounter work;
  Execution execution = Execution::current();
  execution.work = &work;
  ExecutionScope scope(execution);
  run(work);
  plan.activation_bytes = memory_stats(meta).peak - base - plan.weight_bytes + work.scratch_bytes;
  plan.flops = work.flops;
  return plan;
}

}  // namespace df
