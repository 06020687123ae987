#include "ops/backend.h"

#include "core/error.h"
#include "ops/meta_backend.h"

namespace df {

void Backend::not_implemented(const char* op) { fail(ErrorCode::NotBuilt, "%s: %s has no kernel for it", op, name()); }

Backend& backend_for(Device device) {
  switch (device.type) {
    case DeviceType::Cpu: return cpu_backend(cpu_isa());
    case DeviceType::Meta: return meta_backend();
    case DeviceType::Cuda: break;
  }
  fail(ErrorCode::NotBuilt, "%s: built without CUDA kernels: use the cpu device", device.str().c_str());
}

}  // namespace df
