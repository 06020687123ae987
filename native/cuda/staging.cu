#include "cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "cuda/gpu/host.cuh"

namespace df {

Staging::~Staging() {
  for (Buffer& b : buffers_) {
    if (b.sent) (void)cudaEventDestroy(b.sent);
    if (b.data) (void)cudaFreeHost(b.data);
  }
}

// The next `bytes` of the ring, at most a buffer. They are free once the copies out of them, asked for before, have ended.
char* Staging::reserve(size_t bytes, cudaStream_t stream) {
  if (used_ + bytes > kBufferBytes) {
    gpu::check(cudaEventRecord(buffers_[size_t(current_)].sent, stream));
    current_ = (current_ + 1) % kBuffers;
    used_ = 0;
    if (buffers_[size_t(current_)].sent) gpu::check(cudaEventSynchronize(buffers_[size_t(current_)].sent));
  }
  Buffer& b = buffers_[size_t(current_)];
  if (!b.sent) gpu::check(cudaEventCreateWithFlags(&b.sent, cudaEventDisableTiming));
  if (!b.data) gpu::check(cudaHostAlloc(reinterpret_cast<void**>(&b.data), kBufferBytes, cudaHostAllocPortable));
  char* place = b.data + used_;
  used_ += (bytes + 255) / 256 * 256;
  return place;
}

void Staging::upload(const DeviceRows& to, const DeviceRows& from, size_t row_bytes, size_t rows, cudaStream_t stream) {
  const auto source = static_cast<const char*>(from.data);
  const auto target = static_cast<char*>(to.data);
  std::lock_guard<std::mutex> lock(mutex_);
  if (rows == 1) {
    for (size_t done = 0; done < row_bytes;) {
      const size_t n = std::min(row_bytes - done, kBufferBytes);
      char* place = reserve(n, stream);
      parallel_ranges(int64_t(n), int64_t(1) << 20, [&](int64_t begin, int64_t end) {
        std::memcpy(place + begin, source + done + size_t(begin), size_t(end - begin));
      });
      gpu::check(cudaMemcpyAsync(target + done, place, n, cudaMemcpyHostToDevice, stream));
      done += n;
    }
    return;
  }
  if (row_bytes > kBufferBytes)
    fail(ErrorCode::Internal, "cuda: rows of %zu bytes that are not dense cannot be uploaded", row_bytes);
  const size_t most = kBufferBytes / row_bytes;
  for (size_t first = 0; first < rows; first += most) {
    const size_t n = std::min(rows - first, most);
    char* place = reserve(n * row_bytes, stream);
    parallel_ranges(int64_t(n), 1024, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++)
        std::memcpy(place + size_t(r) * row_bytes, source + (first + size_t(r)) * from.pitch, row_bytes);
    });
    gpu::check(cudaMemcpy2DAsync(target + first * to.pitch, to.pitch, place, row_bytes, row_bytes, n,
                                 cudaMemcpyHostToDevice, stream));
  }
}

}  // namespace df
