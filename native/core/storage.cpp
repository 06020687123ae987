#include "core/storage.h"

#include <cstdlib>
#include <map>
#include <mutex>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/error.h"

namespace df {
namespace {

constexpr size_t kHuge = size_t(2) << 20;

// One accounting per device; the CPU's also keeps freed blocks by size.
struct Pool {
  std::mutex mutex;
  MemoryStats stats;
  std::multimap<size_t, void*> free_blocks;

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

void* system_allocate(size_t bytes) {
  void* p = nullptr;
  const size_t alignment = bytes >= kHuge ? kHuge : 64;
  if (posix_memalign(&p, alignment, bytes) != 0) return nullptr;
#if defined(__linux__)
  if (bytes >= kHuge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return p;
}

void release_cpu(Storage& s) {
  Pool& p = pool(s.device);
  std::lock_guard<std::mutex> lock(p.mutex);
  p.stats.current -= s.bytes;
  p.stats.cached += s.bytes;
  p.free_blocks.emplace(s.bytes, s.data);
}

void free_all(Pool& p) {
  for (auto& [bytes, data] : p.free_blocks) free(data);
  p.free_blocks.clear();
  p.stats.cached = 0;
}

std::shared_ptr<Storage> allocate_cpu(Device device, size_t bytes) {
  // sizes are rounded so that blocks of nearly the same size can stand in for each other
  const size_t unit = bytes >= 65536 ? 4096 : 64;
  const size_t size = (bytes + unit - 1) / unit * unit;
  auto s = std::make_shared<Storage>();
  s->device = device;
  Pool& p = pool(device);
  std::lock_guard<std::mutex> lock(p.mutex);
  auto block = p.free_blocks.lower_bound(size);
  if (block != p.free_blocks.end() && block->first <= size + size / 4) {
    s->data = block->second;
    s->bytes = block->first;
    p.stats.cached -= block->first;
    p.free_blocks.erase(block);
  } else {
    s->data = system_allocate(size);
    if (!s->data && !p.free_blocks.empty()) {
      free_all(p);
      s->data = system_allocate(size);
    }
    if (!s->data)
      fail(ErrorCode::OutOfMemory, "%s: cannot allocate %.1f MB; %.1f MB are in use by this process's tensors",
           device.str().c_str(), size / 1e6, p.stats.current / 1e6);
    s->bytes = size;
  }
  p.add(s->bytes);
  s->release = release_cpu;
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

std::shared_ptr<Storage> allocate(Device device, size_t bytes) {
  if (bytes == 0) bytes = 1;
  switch (device.type) {
    case DeviceType::Cpu: return allocate_cpu(device, bytes);
    case DeviceType::Meta: return allocate_meta(device, bytes);
    case DeviceType::Cuda: break;
  }
  fail(ErrorCode::NotBuilt, "%s: this build has no CUDA kernels; use the cpu device", device.str().c_str());
}

std::shared_ptr<Storage> borrow(Device device, void* data, size_t bytes, std::shared_ptr<void> owner) {
  auto s = std::make_shared<Storage>();
  s->device = device;
  s->data = data;
  s->bytes = bytes;
  s->release = [owner = std::move(owner)](Storage&) {};
  return s;
}

MemoryStats memory_stats(Device device) {
  Pool& p = pool(device);
  std::lock_guard<std::mutex> lock(p.mutex);
  return p.stats;
}

void reset_peak(Device device) {
  Pool& p = pool(device);
  std::lock_guard<std::mutex> lock(p.mutex);
  p.stats.peak = p.stats.current;
}

void release_cached(Device device) {
  Pool& p = pool(device);
  std::lock_guard<std::mutex> lock(p.mutex);
  free_all(p);
}

}  // namespace df
