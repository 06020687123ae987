#include "cuda/device_arena.h"

#include <algorithm>
#include <iterator>

namespace df {
namespace {
size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }
}  // namespace

DeviceArena::DeviceArena(Acquire acquire, Release release)
    : acquire_(std::move(acquire)), release_(std::move(release)) {}

DeviceArena::Segment* DeviceArena::add_segment(size_t bytes, bool small, char** base) {
  const size_t least = round_up(bytes, kSegmentUnit), usual = small ? kSmallSegment : kLargeSegment;
  for (const bool again : {false, true}) {
    if (again) release_locked();
    for (size_t size = std::max(least, usual);; size = std::max(least, round_up(size / 2, kSegmentUnit))) {
      if (void* segment = acquire_(size)) {
        *base = static_cast<char*>(segment);
        Segment& s = segments_[*base];
        s.bytes = size;
        s.small = small;
        cached_ += size;
        return &s;
      }
      if (size == least) break;
    }
  }
  return nullptr;
}

void* DeviceArena::allocate(size_t& bytes) {
  if (bytes > SIZE_MAX - kSegmentUnit) return nullptr;
  const size_t size = round_up(std::max<size_t>(bytes, 1), kUnit);
  const bool small = size < kSmall;
  std::lock_guard<std::mutex> lock(mutex_);
  char* base = nullptr;
  Segment* segment = nullptr;
  size_t offset = 0;
  for (auto& [address, s] : segments_) {
    if (s.small != small) continue;
    offset = s.places.place(size);
    if (offset + size > s.bytes) continue;
    base = address;
    segment = &s;
    break;
  }
  if (!segment) {
    segment = add_segment(size, small, &base);
    if (!segment) return nullptr;
    offset = 0;
  }
  segment->places.take(offset, size);
  segment->blocks += size;
  cached_ -= size;
  bytes = size;
  return base + offset;
}

void DeviceArena::free(void* block, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = std::prev(segments_.upper_bound(static_cast<char*>(block)));
  Segment& s = found->second;
  s.places.free(size_t(static_cast<char*>(block) - found->first), bytes);
  s.blocks -= bytes;
  cached_ += bytes;
}

bool DeviceArena::contains(void* block) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto after = segments_.upper_bound(static_cast<char*>(block));
  if (after == segments_.begin()) return false;
  const auto segment = std::prev(after);
  return static_cast<char*>(block) < segment->first + segment->second.bytes;
}

bool DeviceArena::empty() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [base, s] : segments_)
    if (s.blocks > 0) return false;
  return true;
}

void DeviceArena::release_locked() {
  for (auto s = segments_.begin(); s != segments_.end();) {
    if (s->second.blocks > 0) {
      ++s;
      continue;
    }
    release_(s->first);
    cached_ -= s->second.bytes;
    s = segments_.erase(s);
  }
}

void DeviceArena::release() {
  std::lock_guard<std::mutex> lock(mutex_);
  release_locked();
}

size_t DeviceArena::cached() {
  std::lock_guard<std::mutex> lock(mutex_);
  return cached_;
}

}  // namespace df
