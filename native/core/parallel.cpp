#include "core/parallel.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/execution.h"
#include "core/float_environment.h"

namespace df {
namespace {

// About 50 µs of polling before a thread sleeps: longer than the gap between two ops, far shorter than a time slice.
constexpr int kSpins = 2000;

inline void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  std::atomic<uint32_t> epoch{0};   // changes when a job is published
  std::atomic<uint32_t> active{0};  // workers that may touch the job
  std::atomic<bool> open{false};    // a job may be entered
  std::atomic<bool> stop{false};
  const std::function<void(int64_t, int)>* body = nullptr;
  int64_t items = 0;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> completed{0};
  std::atomic<int> sleepers{0};
  std::mutex error_mutex;
  std::exception_ptr error;

  void work(int thread) {
    int64_t item;
    while ((item = next.fetch_add(1, std::memory_order_relaxed)) < items) {
      try {
        (*body)(item, thread);
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
      }
      if (completed.fetch_add(1) + 1 == items) completed.notify_all();
    }
  }

  void join() {
    stop.store(true);
    epoch.fetch_add(1);
    epoch.notify_all();
    for (auto& w : workers) w.join();
  }

  void worker(int thread) {
    enable_flush_to_zero();
    uint32_t seen = 0;
    while (true) {
      for (int i = 0; i < kSpins && epoch.load() == seen; i++) relax();
      if (epoch.load() == seen) {
        sleepers.fetch_add(1);
        epoch.wait(seen);
        sleepers.fetch_sub(1);
      }
      seen = epoch.load();
      if (stop.load()) return;
      // The caller closes the job first and then waits for `active` to drop, both sequentially consistent: either this
      // worker sees the job closed, or the caller sees this worker.
      active.fetch_add(1);
      if (open.load()) work(thread);
      active.fetch_sub(1);
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(new Impl) {
  try {
    for (int i = 1; i < threads; i++) impl_->workers.emplace_back([this, i] { impl_->worker(i); });
  } catch (const std::system_error& e) {
    impl_->join();
    fail(ErrorCode::OutOfMemory, "threads: could not start %d threads: %s; use fewer", threads, e.what());
  }
}

ThreadPool::~ThreadPool() { impl_->join(); }

int ThreadPool::threads() const { return int(impl_->workers.size()) + 1; }

void ThreadPool::run(int64_t items, const std::function<void(int64_t, int)>& body) {
  Impl& m = *impl_;
  if (items <= 0) return;
  if (items == 1 || m.workers.empty()) {
    for (int64_t i = 0; i < items; i++) body(i, 0);
    return;
  }
  m.body = &body;
  m.items = items;
  m.error = nullptr;
  m.next.store(0);
  m.completed.store(0);
  m.open.store(true);
  m.epoch.fetch_add(1);
  if (m.sleepers.load() > 0) m.epoch.notify_all();
  m.work(0);
  for (int i = 0; i < kSpins && m.completed.load() < items; i++) relax();
  for (int64_t done; (done = m.completed.load()) < items;) m.completed.wait(done);
  m.open.store(false);
  for (int i = 0; m.active.load() != 0; i++) {
    if (i < kSpins) relax();
    else std::this_thread::yield();
  }
  if (m.error) std::rethrow_exception(m.error);
}

void parallel_for(int64_t items, const std::function<void(int64_t, int)>& body) {
  ThreadPool* pool = Execution::current().pool;
  if (pool) {
    pool->run(items, body);
  } else {
    for (int64_t i = 0; i < items; i++) body(i, 0);
  }
}

void parallel_ranges(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  parallel_for((n + grain - 1) / grain, [&](int64_t item, int) {
    const int64_t begin = item * grain;
    body(begin, begin + grain < n ? begin + grain : n);
  });
}

int parallel_threads() {
  ThreadPool* pool = Execution::current().pool;
  return pool ? pool->threads() : 1;
}

}  // namespace df
