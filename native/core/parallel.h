// Threads of one CPU device. Work items are defined by the shape of the data, never by the number of threads, so that
// results do not depend on it; which thread runs which item does not matter.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>

namespace df {

/// A pool of `threads` threads, the calling one included. Workers spin briefly, then sleep.
class ThreadPool {
 public:
  /// Throws OUT_OF_MEMORY when the system does not start that many.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  int threads() const;
  /// Calls body(item, thread) for every item in [0, items), dynamically shared; returns when all are done. An exception
  /// of a body is rethrown here. Calls must not be nested.
  void run(int64_t items, const std::function<void(int64_t item, int thread)>& body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// On the pool of the current execution (core/execution.h); inline when there is none or only one item.
void parallel_for(int64_t items, const std::function<void(int64_t item, int thread)>& body);
/// Cuts [0, n) into ranges of `grain` and calls body(begin, end) for each.
void parallel_ranges(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);
/// Threads that parallel_for may use now (at least 1). For scratch sizes only.
int parallel_threads();

}  // namespace df
