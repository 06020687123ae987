// Stands in for device.cu in a build without CUDA.
#include "core/device_runtime.h"
#include "core/error.h"
#include "cuda/device.h"

namespace df {
namespace {

[[noreturn]] void refuse(Device device) {
  fail(ErrorCode::NotBuilt, "%s cannot be used: %s", device.str().c_str(), cuda_refusal({}, device.index).c_str());
}

class NoRuntime : public DeviceRuntime {
 public:
  void check(Device device) override { refuse(device); }
  Backend& backend(Device device) override { refuse(device); }
  void* allocate(Device device, size_t&) override { refuse(device); }
  void free(Device, void*, size_t) override {}
  size_t cached(Device) override { return 0; }
  void release_cached(Device) override {}
  size_t available(Device device) override { refuse(device); }
  void set_zero(Device device, void*, size_t) override { refuse(device); }
  void copy(const DeviceRows& to, const DeviceRows& from, size_t, size_t) override {
    refuse(to.device.type == DeviceType::Cuda ? to.device : from.device);
  }
  void synchronize(Device device) override { refuse(device); }
  std::shared_ptr<DeviceGraph> record(Device device, const std::function<void()>&) override { refuse(device); }
};

}  // namespace

CudaInfo query_cuda() { return {}; }

DeviceRuntime& built_device_runtime() {
  static NoRuntime runtime;
  return runtime;
}

}  // namespace df
