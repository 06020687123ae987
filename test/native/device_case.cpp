#include "device_case.h"

#include "core/device_runtime.h"
#include "emulated_device.h"

namespace df::test {

void need_device(int index) {
  try {
    device_runtime().check({DeviceType::Cuda, index});
  } catch (const Error& e) {
    if (e.code != ErrorCode::NotBuilt) throw;
    not_run(e.what());
  }
}

void add_device_case(Suite& suite, const std::string& name, std::function<void()> body, int devices) {
  suite.add(name + " isa=cuda-emulated", [body] {
    const EmulatedDevice device;
    body();
  });
  suite.add(name + " isa=cuda:0", [body, devices] {
    for (int i = 0; i < devices; i++) need_device(i);
    body();
    for (int i = 0; i < devices; i++) device_runtime().synchronize({DeviceType::Cuda, i});
  });
}

}  // namespace df::test
