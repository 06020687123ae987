#include "core/storage.h"

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>

#include "core/arena.h"
#include "core/device_runtime.h"
#include "core/error.h"

namespace df {
namespace {

// Smaller blocks come from malloc and are kept by size when they are freed; the others come from the arena.
constexpr size_t kArenaBytes = size_t(64) << 10;

// One accounting per device, and the CPU's free memory.
struct Pool {
  std::mutex mutex;
  MemoryStats stats;                         // `cached` counts the small blocks only
  std::multimap<size_t, void*> free_blocks;
  Arena arena;

  void add(size_t bytes) {
    stats.current += bytes;
    if (stats.current > stats.peak) stats.peak = stats.current;
  }
};

// Leaked on purpose: storages may be released by other static objects or by threads at exit.
Pool& pool(Device device) {
  static std::mutex mutex;
  static auto* pools = new std::map<std::pair<int, int>, Pool*>();
  std::lock_guard<std::mutex> lock(mutex);
  Pool*& p = (*pools)[{int(device.type), device.index}];
  if (!p) p = new Pool();
  return *p;
}

void release_cpu(Storage& s) {
  Pool& p = pool(s.device);
  std::lock_guard<std::mutex> lock(p.mutex);
  p.stats.current -= s.bytes;
  if (s.bytes >= kArenaBytes) {
    p.arena.free(s.data, s.bytes);
  } else {
    p.stats.cached += s.bytes;
    p.free_blocks.emplace(s.bytes, s.data);
  }
}

// A kept block of this size or up to a quarter more, or a new one; its size goes into `bytes`.
void* allocate_small(Pool& p, size_t& bytes) {
  const auto block = p.free_blocks.lower_bound(bytes);
  if (block != p.free_blocks.end() && block->first <= bytes + bytes / 4) {
    void* data = block->second;
    bytes = block->first;
    p.stats.cached -= bytes;
    p.free_blocks.erase(block);
    return data;
  }
  void* data = nullptr;
  return posix_memalign(&data, 64, bytes) == 0 ? data : nullptr;
}

std::shared_ptr<Storage> allocate_cpu(Device device, size_t bytes) {
  const size_t unit = bytes >= kArenaBytes ? Arena::kPage : 64;
  auto s = std::make_shared<Storage>();
  s->device = device;
  s->bytes = bytes > SIZE_MAX - unit ? bytes : (bytes + unit - 1) / unit * unit;
  Pool& p = pool(device);
  std::lock_guard<std::mutex> lock(p.mutex);
  s->data = s->bytes >= kArenaBytes ? p.arena.allocate(s->bytes) : allocate_small(p, s->bytes);
  if (!s->data)
    fail(ErrorCode::OutOfMemory, "%s: cannot allocate %.1f MB; %.1f MB are in use by this process's tensors",
         device.str().c_str(), double(s->bytes) / 1e6, double(p.stats.current) / 1e6);
  p.add(s->bytes);
  s->release = release_cpu;
  return s;
}

std::shared_ptr<Storage> allocate_on_device(Device device, size_t bytes) {
  DeviceRuntime& runtime = device_runtime();
  auto s = std::make_shared<Storage>();
  s->device = device;
  s->bytes = bytes;
  s->data = runtime.allocate(device, s->bytes);
  Pool& p = pool(device);
  if (!s->data)
    fail(ErrorCode::OutOfMemory, "%s: cannot allocate %.1f MB; %.1f MB are free there, and %.1f MB are in use by this "
                                 "process's tensors", device.str().c_str(), double(bytes) / 1e6,
         double(runtime.available(device)) / 1e6, double(memory_stats(device).current) / 1e6);
  std::lock_guard<std::mutex> lock(p.mutex);
  p.add(s->bytes);
  s->release = [&runtime](Storage& dead) {
    runtime.free(dead.device, dead.data, dead.bytes);
    Pool& q = pool(dead.device);
    std::lock_guard<std::mutex> guard(q.mutex);
    q.stats.current -= dead.bytes;
  };
  return s;
}

std::shared_ptr<Storage> allocate_meta(Device device, size_t bytes) {
  auto s = std::make_shared<Storage>();
  s->device = device;
  s->bytes = bytes;
  Pool& p = pool(device);
  std::lock_guard<std::mutex> lock(p.mutex);
  p.add(bytes);
  s->release = [](Storage& dead) {
    Pool& q = pool(dead.device);
    std::lock_guard<std::mutex> guard(q.mutex);
    q.stats.current -= dead.bytes;
  };
  return s;
}

}  // namespace

uint64_t Storage::next_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

std::shared_ptr<Storage> allocate(Device device, size_t bytes) {
  const size_t some = bytes ? bytes : 1;
  std::shared_ptr<Storage> storage = device.type == DeviceType::Cpu    ? allocate_cpu(device, some)
                                     : device.type == DeviceType::Meta ? allocate_meta(device, some)
                                                                       : allocate_on_device(device, some);
  storage->requested = bytes;
  return storage;
}

std::shared_ptr<Storage> borrow(Device device, void* data, size_t bytes, std::shared_ptr<void> owner) {
  auto s = std::make_shared<Storage>();
  s->device = device;
  s->data = data;
  s->bytes = s->requested = bytes;
  s->release = [owner = std::move(owner)](Storage&) {};
  return s;
}

MemoryStats memory_stats(Device device) {
  Pool& p = pool(device);
  std::lock_guard<std::mutex> lock(p.mutex);
  MemoryStats stats = p.stats;
  stats.cached += p.arena.cached();
  if (device.type == DeviceType::Cuda) stats.cached += device_runtime().cached(device);
  return stats;
}

void reset_peak(Device device) {
  Pool& p = pool(device);
  std::lock_guard<std::mutex> lock(p.mutex);
  p.stats.peak = p.stats.current;
}

void release_cached(Device device) {
  if (device.type == DeviceType::Cuda) return device_runtime().release_cached(device);
  Pool& p = pool(device);
  std::lock_guard<std::mutex> lock(p.mutex);
  for (auto& [bytes, data] : p.free_blocks) free(data);
  p.free_blocks.clear();
  p.stats.cached = 0;
  p.arena.release();
}

}  // namespace df
