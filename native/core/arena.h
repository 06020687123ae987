// One range of addresses from which large blocks are cut. Freed neighbours merge and any later block may take their
// place, so that the tensors of a UNet, which change size at every level, need hardly more than the largest sum of live
// ones (one size class per block needed 1.9 times as much for IF-II-L), and pages once faulted in are used again.
#pragma once
#include <cstddef>
#include <map>

namespace df {

/// Not thread-safe. Sizes are in bytes and rounded up to whole pages by the arena.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  static constexpr size_t kPage = 4096;

  /// The lowest free place: page-aligned, uninitialised. Null when the system does not give it.
  void* allocate(size_t bytes);
  /// `bytes` as at `allocate`. The pages are kept for reuse.
  void free(void* block, size_t bytes);
  /// Gives the pages of all free places back to the system.
  void release();
  /// Bytes of free places that have pages, about.
  size_t cached() const { return cached_; }

 private:
  struct Range {
    size_t bytes = 0;
    size_t resident = 0;  // about so many of them have pages
  };
  bool reserve();
  bool make_usable(size_t end);
  size_t take(std::map<size_t, Range>::iterator range, size_t bytes);

  char* reservation_ = nullptr;   // what was mapped; base_ is the first huge page boundary in it
  size_t reservation_bytes_ = 0;
  char* base_ = nullptr;
  size_t capacity_ = 0;
  size_t usable_ = 0;             // readable and writable from base_
  size_t end_ = 0;                // behind the last block or free range
  size_t cached_ = 0;
  std::map<size_t, Range> free_;  // offset → range; no two touch each other
};

}  // namespace df
