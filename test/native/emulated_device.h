// Two cuda devices that exist in the tests only: their memory is memory of the CPU that only kernels and copies may touch
// (anything else ends the test program), and their backend is the emulated one.
#pragma once
#include <cstddef>

namespace df::test {

/// cuda:0 and cuda:1 are emulated for the lifetime of this; at most one at a time.
class EmulatedDevice {
 public:
  /// `memory`: bytes of each device.
  explicit EmulatedDevice(size_t memory = size_t(4) << 30);
  ~EmulatedDevice();
  EmulatedDevice(const EmulatedDevice&) = delete;
  EmulatedDevice& operator=(const EmulatedDevice&) = delete;
};

}  // namespace df::test
