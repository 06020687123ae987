#include "cuda/gpu/host.cuh"

#include <array>
#include <atomic>
#include <mutex>

#include "cuda/device.h"
#include "cuda/stream_scope.h"

namespace gpu {

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  // what a kernel did wrong is reported by every later call, in every context of the device
  const bool lost = status != cudaErrorMemoryAllocation && cudaFree(nullptr) != cudaSuccess;
  (void)cudaGetLastError();
  df::fail(status == cudaErrorMemoryAllocation ? df::ErrorCode::OutOfMemory : df::ErrorCode::Internal, "%s",
           df::cuda_failure(cudaGetErrorString(status), lost).c_str());
}

}  // namespace gpu

namespace df::cuda {
namespace {
thread_local gpu::Stream scoped = nullptr;
thread_local int scoped_device = -1;
}  // namespace

StreamScope::StreamScope(Device device, cudaStream_t stream) { scoped = stream, scoped_device = device.index; }
StreamScope::~StreamScope() { scoped = nullptr, scoped_device = -1; }

gpu::Stream stream(Device device) {
  static std::array<std::atomic<gpu::Stream>, 64> streams;
  static std::mutex mutex;
  gpu::check(cudaSetDevice(device.index));
  if (device.index == scoped_device) return scoped;
  std::atomic<gpu::Stream>& known = streams.at(size_t(device.index));
  if (gpu::Stream s = known.load(std::memory_order_acquire)) return s;
  std::lock_guard<std::mutex> lock(mutex);
  gpu::Stream s = known.load(std::memory_order_acquire);
  if (!s) {
    gpu::check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    known.store(s, std::memory_order_release);
  }
  return s;
}

int multiprocessors(Device device) {
  int count = 0;
  gpu::check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device.index));
  return count;
}

bool has_wgmma(Device device) {
  int major = 0, minor = 0;
  gpu::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index));
  gpu::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index));
  return major == 9 && minor == 0;
}

void set_zero(void* device, size_t bytes, gpu::Stream stream) {
  if (bytes) gpu::check(cudaMemsetAsync(device, 0, bytes, stream));
}

void copy_to_host(void* host, const void* device, size_t bytes, gpu::Stream stream) {
  if (bytes) gpu::check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream));
  gpu::check(cudaStreamSynchronize(stream));
}

void copy_to_device(void* device, const void* host, size_t bytes, gpu::Stream stream) {
  if (bytes) gpu::check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream));
  gpu::check(cudaStreamSynchronize(stream));
}

}  // namespace df::cuda
