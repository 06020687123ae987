#include "cuda/gpu/host.cuh"

#include <map>
#include <mutex>

namespace gpu {

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  df::fail(status == cudaErrorMemoryAllocation ? df::ErrorCode::OutOfMemory : df::ErrorCode::Internal, "cuda: %s",
           cudaGetErrorString(status));
}

}  // namespace gpu

namespace df::cuda {

gpu::Stream stream(Device device) {
  static std::mutex mutex;
  static auto* streams = new std::map<int, gpu::Stream>();
  gpu::check(cudaSetDevice(device.index));
  std::lock_guard<std::mutex> lock(mutex);
  gpu::Stream& s = (*streams)[device.index];
  if (!s) gpu::check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  return s;
}

int multiprocessors(Device device) {
  int count = 0;
  gpu::check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device.index));
  return count;
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
