// What core and ops ask of devices with memory of their own. native/cuda implements it, and core knows this interface
// only; tests put an emulated device in its place.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>

#include "core/device.h"

namespace df {

class Backend;  // ops/backend.h

/// Rows of bytes on a device, `pitch` bytes apart.
struct DeviceRows {
  Device device;
  void* data = nullptr;
  size_t pitch = 0;
};

/// Work that was recorded once, on the memory that it was recorded with.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  /// Gives all of it to the device.
  virtual void replay() = 0;
};

/// All calls may come from any thread. Work of a device is done in the order of the calls.
class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;

  /// Throws NOT_BUILT with one line that says why the device cannot be used here.
  virtual void check(Device device) = 0;
  virtual Backend& backend(Device device) = 0;

  /// Uninitialised memory, aligned to 256 bytes; `bytes` becomes what is set aside. Null when there is not enough.
  virtual void* allocate(Device device, size_t& bytes) = 0;
  /// Work given to the device before may still use the block.
  virtual void free(Device device, void* data, size_t bytes) = 0;
  /// Bytes that were freed and are kept for reuse; gives them back.
  virtual size_t cached(Device device) = 0;
  virtual void release_cached(Device device) = 0;
  /// Bytes that blocks can still take.
  virtual size_t available(Device device) = 0;

  virtual void set_zero(Device device, void* data, size_t bytes) = 0;
  /// Between the CPU and a device, or two devices. Memory of the CPU may be changed or freed on return, and holds what was
  /// asked for; only a copy to the CPU waits for the device.
  virtual void copy(const DeviceRows& to, const DeviceRows& from, size_t row_bytes, size_t rows) = 0;
  /// Waits for all work of the device. Throws what it met.
  virtual void synchronize(Device device) = 0;

  /// Records what `run` gives to the device from this thread, instead of doing it. `run` must neither wait for the device
  /// nor copy from or to the CPU. What it allocates lies where nothing else does until graph and tensors are gone. Null
  /// when the device cannot record it; throws CANCELLED.
  virtual std::shared_ptr<DeviceGraph> record(Device device, const std::function<void()>& run) = 0;
};

/// Of all cuda devices.
DeviceRuntime& device_runtime();
/// Tests only: another one from now on; null: that of the build. What was allocated stays with the old one.
void set_device_runtime(DeviceRuntime* runtime);

/// That of the build, defined by native/cuda: without CUDA, one whose `check` throws.
DeviceRuntime& built_device_runtime();

}  // namespace df
