// Pinned memory on the way to a device: a ring of buffers, each filled by the CPU while the ones before are under way, so
// that an upload waits for the device only when it is a whole ring ahead.
#pragma once
#include <cuda_runtime.h>

#include <array>
#include <mutex>

#include "core/device_runtime.h"

namespace df {

class Staging {
 public:
  Staging() = default;
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// Copies rows of the CPU's memory, which may be changed or freed on return, to the device of the stream.
  void upload(const DeviceRows& to, const DeviceRows& from, size_t row_bytes, size_t rows, cudaStream_t stream);

 private:
  static constexpr int kBuffers = 4;
  static constexpr size_t kBufferBytes = size_t(16) << 20;
  struct Buffer {
    char* data = nullptr;
    cudaEvent_t sent = nullptr;
  };
  char* reserve(size_t bytes, cudaStream_t stream);

  std::mutex mutex_;
  std::array<Buffer, kBuffers> buffers_;
  int current_ = 0;
  size_t used_ = 0;
};

}  // namespace df
