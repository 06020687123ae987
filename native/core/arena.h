// One range of addresses of the CPU from which large blocks are cut by first fit; pages once faulted in are used again.
#pragma once
#include <cstddef>

#include "core/first_fit.h"

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
  size_t cached() const { return places_.used(); }

 private:
  bool reserve();
  bool make_usable(size_t end);

  char* reservation_ = nullptr;   // what was mapped; base_ is the first huge page boundary in it
  size_t reservation_bytes_ = 0;
  char* base_ = nullptr;
  size_t capacity_ = 0;
  size_t usable_ = 0;             // readable and writable from base_
  FirstFit places_;               // offsets from base_
};

}  // namespace df
