// The memory of one device: an arena that all share, and one of each recorded graph.
#pragma once
#include <memory>
#include <vector>

#include "cuda/device_arena.h"

namespace df {

class DeviceMemory {
 public:
  DeviceMemory(DeviceArena::Acquire acquire, DeviceArena::Release release);

  /// As of DeviceArena; this thread's blocks come from a graph's arena while a RecordingScope is open.
  void* allocate(size_t& bytes);
  void free(void* block, size_t bytes);
  void release();
  size_t cached();

  /// Blocks of this thread come from a new arena for the lifetime of the scope.
  class RecordingScope {
   public:
    explicit RecordingScope(DeviceMemory& memory);
    ~RecordingScope();
    RecordingScope(const RecordingScope&) = delete;
    RecordingScope& operator=(const RecordingScope&) = delete;
    /// Keeps the memory for a graph: it is given back when the last owner is gone and all its blocks are freed.
    std::shared_ptr<void> keep() const { return arena_; }

   private:
    std::shared_ptr<DeviceArena> arena_;
    DeviceArena* outer_;
  };

 private:
  std::shared_ptr<DeviceArena> arena_of(void* block);
  DeviceArena::Acquire acquire_;
  DeviceArena::Release release_;
  DeviceArena shared_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<DeviceArena>> graphs_;
};

}  // namespace df
