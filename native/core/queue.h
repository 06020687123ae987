// One command queue per device, on its own thread: never libuv's pool, never the event loop.
#pragma once
#include <atomic>
#include <functional>
#include <memory>

#include "core/device.h"
#include "core/parallel.h"

namespace df {

class Queue {
 public:
  /// `threads`: size of the pool of a CPU queue (the queue's own thread included); 0 = physical cores available to the
  /// process (affinity mask and cgroup quota heeded).
  Queue(Device device, int threads);
  /// Cancels what is running and waiting, then joins.
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  Device device() const;
  int threads() const;
  /// No command runs or waits.
  bool idle() const;
  /// Runs `command` in order on the queue's thread, in an Execution with this queue's pool and the given cancel flag, then
  /// `finished`, when the queue counts as idle if nothing waits. Both must catch their own errors.
  void submit(std::function<void()> command, std::function<void()> finished,
              std::shared_ptr<std::atomic<bool>> cancelled);
  /// Commands that have not begun are still called, with their flag set, so that each one reports its cancellation.
  void cancel_all();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Cores that this process may use: affinity mask, cgroup CPU quota, at least 1.
int available_cores();

}  // namespace df
