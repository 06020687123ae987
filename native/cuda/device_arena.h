// Device memory cut from a few large segments by first fit, so that a step allocates nothing: what one step freed serves
// the next. Host code: it knows the device by two functions only.
#pragma once
#include <cstddef>
#include <functional>
#include <map>
#include <mutex>

#include "core/first_fit.h"

namespace df {

class DeviceArena {
 public:
  /// Segments of device memory, aligned to 256 bytes at least; null when there is not enough.
  using Acquire = std::function<void*(size_t bytes)>;
  using Release = std::function<void(void* segment)>;
  DeviceArena(Acquire acquire, Release release);
  DeviceArena(const DeviceArena&) = delete;
  DeviceArena& operator=(const DeviceArena&) = delete;

  static constexpr size_t kUnit = 512;                         ///< sizes are rounded up to it
  static constexpr size_t kSmall = size_t(1) << 20;            ///< smaller blocks have segments of their own
  static constexpr size_t kSmallSegment = size_t(16) << 20;
  static constexpr size_t kLargeSegment = size_t(512) << 20;   ///< halved when there is less
  static constexpr size_t kSegmentUnit = size_t(2) << 20;

  /// `bytes` becomes the size of the block. Null when there is no room and no segment to be had.
  void* allocate(size_t& bytes);
  /// `bytes` as `allocate` left them.
  void free(void* block, size_t bytes);
  /// Whether the block is one of this arena.
  bool contains(void* block);
  /// No block is in use.
  bool empty();
  /// Gives segments without blocks back.
  void release();
  /// Bytes of segments that are in no block.
  size_t cached();

 private:
  struct Segment {
    size_t bytes = 0;
    bool small = false;
    size_t blocks = 0;  // bytes in blocks
    FirstFit places;
  };
  void release_locked();
  Segment* add_segment(size_t bytes, bool small, char** base);

  std::mutex mutex_;
  Acquire acquire_;
  Release release_;
  std::map<char*, Segment> segments_;  // by address
  size_t cached_ = 0;
};

}  // namespace df
