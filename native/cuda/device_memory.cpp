#include "cuda/device_memory.h"

#include <algorithm>

namespace df {
namespace {
thread_local DeviceArena* recording = nullptr;
}  // namespace

DeviceMemory::DeviceMemory(DeviceArena::Acquire acquire, DeviceArena::Release release)
    : acquire_(std::move(acquire)), release_(std::move(release)), shared_(acquire_, release_) {}

void* DeviceMemory::allocate(size_t& bytes) { return (recording ? *recording : shared_).allocate(bytes); }

std::shared_ptr<DeviceArena> DeviceMemory::arena_of(void* block) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& arena : graphs_)
    if (arena->contains(block)) return arena;
  return nullptr;
}

void DeviceMemory::free(void* block, size_t bytes) {
  if (shared_.contains(block)) return shared_.free(block, bytes);
  if (const auto arena = arena_of(block)) arena->free(block, bytes);
}

void DeviceMemory::release() {
  shared_.release();
  std::lock_guard<std::mutex> lock(mutex_);
  // graphs that are gone, their results too
  graphs_.erase(std::remove_if(graphs_.begin(), graphs_.end(),
                               [](const auto& arena) {
                                 if (arena.use_count() > 1 || !arena->empty()) return false;
                                 arena->release();
                                 return true;
                               }),
                graphs_.end());
}

size_t DeviceMemory::cached() {
  size_t bytes = shared_.cached();
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& arena : graphs_)
    if (arena.use_count() == 1 && arena->empty()) bytes += arena->cached();
  return bytes;
}

DeviceMemory::RecordingScope::RecordingScope(DeviceMemory& memory)
    : arena_(std::make_shared<DeviceArena>(memory.acquire_, memory.release_)), outer_(recording) {
  memory.release();  // what the steps before used is not needed beside it
  std::lock_guard<std::mutex> lock(memory.mutex_);
  memory.graphs_.push_back(arena_);
  recording = arena_.get();
}

DeviceMemory::RecordingScope::~RecordingScope() { recording = outer_; }

}  // namespace df
