// Device memory is host memory here, and every launch has ended when it returns.
#include <cstring>

#include "cuda/emulation/runtime.h"
#include "cuda/gpu/host.cuh"

namespace df::cuda_emulated {

gpu::Stream stream(Device) { return nullptr; }
int multiprocessors(Device) { return 4; }
bool has_wgmma(Device) { return true; }
void set_zero(void* device, size_t bytes, gpu::Stream stream) {
  if (auto* recording = emu::settings().recording) {
    recording->push_back([=] { set_zero(device, bytes, stream); });
    return;
  }
  const emu::DeviceMemoryAccess access;
  std::memset(device, 0, bytes);
}
void copy_to_host(void* host, const void* device, size_t bytes, gpu::Stream) {
  if (emu::settings().recording) throw emu::Fault("copy to the host while work is recorded");
  const emu::DeviceMemoryAccess access;
  std::memcpy(host, device, bytes);
}
void copy_to_device(void* device, const void* host, size_t bytes, gpu::Stream) {
  if (emu::settings().recording) throw emu::Fault("copy from the host while work is recorded");
  const emu::DeviceMemoryAccess access;
  std::memcpy(device, host, bytes);
}

}  // namespace df::cuda_emulated
