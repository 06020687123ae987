// Device memory is host memory here, and every launch has ended when it returns.
#include <cstring>

#include "cuda/gpu/host.cuh"

namespace df::cuda_emulated {

gpu::Stream stream(Device) { return nullptr; }
int multiprocessors(Device) { return 4; }
void set_zero(void* device, size_t bytes, gpu::Stream) { std::memset(device, 0, bytes); }
void copy_to_host(void* host, const void* device, size_t bytes, gpu::Stream) { std::memcpy(host, device, bytes); }
void copy_to_device(void* device, const void* host, size_t bytes, gpu::Stream) { std::memcpy(device, host, bytes); }

}  // namespace df::cuda_emulated
