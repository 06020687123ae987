// Memory of tensors. CPU blocks are 64-byte aligned (page-aligned from 64 KiB on, on huge pages where the system has them)
// and are kept for reuse when they are freed, so that a sampling step neither allocates nor faults pages in.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "core/device.h"

namespace df {

/// One block of device memory. `data` is null on the meta device.
struct Storage {
  const uint64_t id = next_id();  ///< never used again in this process
  void* data = nullptr;
  size_t bytes = 0;      ///< at least what was asked for
  size_t requested = 0;  ///< what was asked for
  Device device;
  std::function<void(Storage&)> release;
  Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  ~Storage() { if (release) release(*this); }

 private:
  static uint64_t next_id();
};

/// Allocates uninitialised memory. Throws OUT_OF_MEMORY naming the bytes asked for and those in use; NOT_BUILT for a cuda
/// device that cannot be used.
std::shared_ptr<Storage> allocate(Device device, size_t bytes);
/// Memory owned by somebody else; `owner` keeps it alive.
std::shared_ptr<Storage> borrow(Device device, void* data, size_t bytes, std::shared_ptr<void> owner);

struct MemoryStats {
  size_t current = 0;  ///< bytes in live storages
  size_t peak = 0;     ///< largest `current` since the last reset_peak
  size_t cached = 0;   ///< bytes freed by tensors and kept for reuse
};
MemoryStats memory_stats(Device device);
void reset_peak(Device device);
/// Gives the cached blocks back to the system (between stages).
void release_cached(Device device);

}  // namespace df
