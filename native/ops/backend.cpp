#include "ops/backend.h"

#include "core/device_runtime.h"
#include "core/error.h"
#include "ops/meta_backend.h"

namespace df {

void Backend::not_implemented(const char* op) { fail(ErrorCode::NotBuilt, "%s: %s has no kernel for it", op, name()); }

Backend& backend_for(Device device) {
  switch (device.type) {
    case DeviceType::Cpu: return cpu_backend(cpu_isa());
    case DeviceType::Meta: return meta_backend(device);
    case DeviceType::Cuda: return device_runtime().backend(device);
  }
  fail(ErrorCode::Internal, "%s: no such type of device", device.str().c_str());
}

}  // namespace df
