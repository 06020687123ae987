// Facts about this build and machine, threads and memory.
#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/device_runtime.h"
#include "core/storage.h"
#include "cuda/device.h"
#include "ops/backend.h"

namespace df::addon {
namespace {

// abi(): number; lib/addon.ts refuses an addon of another number
Napi::Value abi(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), 4); }

// setErrorClass(class)
Napi::Value bind_error_class(const Napi::CallbackInfo& info) {
  DF_CHECK(info[0].IsFunction(), "setErrorClass: expected a class");
  set_error_class(info.Env(), info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

// cpuInfo(): { isa, supported, cores }
Napi::Value cpu_info(const Napi::CallbackInfo& info) {
  auto o = Napi::Object::New(info.Env());
  auto supported = Napi::Array::New(info.Env());
  uint32_t n = 0;
  for (const CpuIsa& isa : cpu_isas())
    if (isa.supported) supported.Set(n++, isa.name);
  o.Set("isa", cpu_isa());
  o.Set("supported", supported);
  o.Set("cores", available_cores());
  return o;
}

// cudaInfo(): { built, devices: [{ name, memory }], reason }; reason: why cuda:0 cannot be used, as far as can be told
// without taking memory of it, or empty
Napi::Value cuda_info(const Napi::CallbackInfo& info) {
  const CudaInfo c = query_cuda();
  auto o = Napi::Object::New(info.Env());
  auto devices = Napi::Array::New(info.Env());
  for (uint32_t i = 0; i < c.devices.size(); i++) {
    auto d = Napi::Object::New(info.Env());
    d.Set("name", c.devices[i].name);
    d.Set("memory", double(c.devices[i].memory_bytes));
    devices.Set(i, d);
  }
  o.Set("built", c.built);
  o.Set("devices", devices);
  o.Set("reason", cuda_refusal(c, 0));
  return o;
}

// checkDevice(device): throws NOT_BUILT when it cannot be used here
Napi::Value check_device(const Napi::CallbackInfo& info) {
  const Device device = read_device(info[0], "checkDevice: device");
  if (device.type == DeviceType::Cuda) device_runtime().check(device);
  return info.Env().Undefined();
}

// deviceMemory(device): bytes that tensors can still take on a cuda device
Napi::Value device_memory(const Napi::CallbackInfo& info) {
  const Device device = read_device(info[0], "deviceMemory: device");
  DF_CHECK(device.type == DeviceType::Cuda, "deviceMemory: device must be a cuda device, got %s", device.str().c_str());
  return Napi::Number::New(info.Env(), double(device_runtime().available(device)));
}

// setThreads(device, threads)
Napi::Value set_device_threads(const Napi::CallbackInfo& info) {
  set_threads(read_device(info[0], "setThreads: device"), int(read_integer(info[1], "setThreads: threads", 0, 1024)));
  return info.Env().Undefined();
}
// getThreads(device): number
Napi::Value get_device_threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), get_threads(read_device(info[0], "getThreads: device")));
}

// memory(device): { current, peak, cached }
Napi::Value memory(const Napi::CallbackInfo& info) {
  const MemoryStats s = memory_stats(read_device(info[0], "memory: device"));
  auto o = Napi::Object::New(info.Env());
  o.Set("current", double(s.current));
  o.Set("peak", double(s.peak));
  o.Set("cached", double(s.cached));
  return o;
}
// releaseCached(device)
Napi::Value release_cached_memory(const Napi::CallbackInfo& info) {
  release_cached(read_device(info[0], "releaseCached: device"));
  return info.Env().Undefined();
}

}  // namespace

void bind_system(Napi::Env env, Napi::Object exports) {
  bind<abi>(env, exports, "abi");
  bind<bind_error_class>(env, exports, "setErrorClass");
  bind<cpu_info>(env, exports, "cpuInfo");
  bind<cuda_info>(env, exports, "cudaInfo");
  bind<check_device>(env, exports, "checkDevice");
  bind<device_memory>(env, exports, "deviceMemory");
  bind<set_device_threads>(env, exports, "setThreads");
  bind<get_device_threads>(env, exports, "getThreads");
  bind<memory>(env, exports, "memory");
  bind<release_cached_memory>(env, exports, "releaseCached");
}

}  // namespace df::addon
