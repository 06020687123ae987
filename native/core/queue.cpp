#include "core/queue.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#if defined(__linux__)
#include <sched.h>
#endif

#include "core/error.h"
#include "core/execution.h"

namespace df {

struct Queue::Impl {
  struct Command {
    std::function<void()> run, finished;
    std::shared_ptr<std::atomic<bool>> cancelled;
  };
  Device device;
  std::unique_ptr<ThreadPool> pool;
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<Command> commands;
  std::shared_ptr<std::atomic<bool>> running;
  bool stop = false;
  std::thread thread;

  void loop() {
    Execution execution;
    execution.pool = pool.get();
    ExecutionScope scope(execution);
    while (true) {
      Command command;
      {
        std::unique_lock<std::mutex> lock(mutex);
        ready.wait(lock, [&] { return stop || !commands.empty(); });
        if (commands.empty()) return;
        command = std::move(commands.front());
        commands.pop_front();
        running = command.cancelled;
      }
      execution.cancelled = command.cancelled.get();
      command.run();
      command.run = nullptr;  // its references go before anybody is told
      execution.cancelled = nullptr;
      {
        std::lock_guard<std::mutex> lock(mutex);
        running = nullptr;
      }
      command.finished();
    }
  }
};

Queue::Queue(Device device, int threads) : impl_(new Impl) {
  impl_->device = device;
  impl_->pool = std::make_unique<ThreadPool>(threads > 0 ? threads : available_cores());
  try {
    impl_->thread = std::thread([this] { impl_->loop(); });
  } catch (const std::system_error& e) {
    fail(ErrorCode::OutOfMemory, "threads: could not start the queue of %s: %s", device.str().c_str(), e.what());
  }
}

Queue::~Queue() {
  cancel_all();
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->ready.notify_all();
  impl_->thread.join();
}

Device Queue::device() const { return impl_->device; }
int Queue::threads() const { return impl_->pool->threads(); }

bool Queue::idle() const {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  return !impl_->running && impl_->commands.empty();
}

void Queue::submit(std::function<void()> command, std::function<void()> finished,
                   std::shared_ptr<std::atomic<bool>> cancelled) {
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->commands.push_back({std::move(command), std::move(finished), std::move(cancelled)});
  }
  impl_->ready.notify_one();
}

void Queue::cancel_all() {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  if (impl_->running) impl_->running->store(true);
  for (auto& c : impl_->commands) c.cancelled->store(true);
}

#if defined(__linux__)
namespace {

// Distinct physical cores of the affinity mask; two hardware threads of one core share its FMA units.
int physical_cores(const cpu_set_t& set) {
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const std::string path = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list";
    char text[64] = "";
    if (FILE* f = std::fopen(path.c_str(), "r")) {
      if (!std::fgets(text, sizeof text, f)) text[0] = 0;
      std::fclose(f);
    }
    cores.insert(text[0] ? text : path);
  }
  return int(cores.size());
}

int cgroup_quota() {
  long quota = 0, period = 0;
  int cores = 0;
  if (FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(f, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0)
      cores = int((quota + period - 1) / period);
    std::fclose(f);
  }
  return cores;
}

}  // namespace
#endif

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    int n = physical_cores(set);
    if (const int quota = cgroup_quota()) n = std::min(n, quota);
    return std::max(n, 1);
  }
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

}  // namespace df
