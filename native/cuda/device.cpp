#include "cuda/device.h"

#include "core/error.h"

namespace df {
namespace {

std::string version(int v) { return format("%d.%d", v / 1000, v % 1000 / 10); }
std::string capability(int c) { return format("%d.%d", c / 10, c % 10); }

}  // namespace

std::string cuda_refusal(const CudaInfo& info, int index) {
  if (!info.built) return "this build has no CUDA kernels (IF_CUDA=ON npm install builds them)";
  if (info.driver == 0) return "no NVIDIA driver is installed";
  if (info.driver / 1000 < info.runtime / 1000)
    return format("the NVIDIA driver is too old: it supports CUDA %s, and this build needs %s", version(info.driver).c_str(),
                  version(info.runtime).c_str());
  if (!info.error.empty()) return "the NVIDIA driver reports: " + info.error;
  if (info.devices.empty()) return "there is no CUDA device, or CUDA_VISIBLE_DEVICES hides it";
  const int count = int(info.devices.size());
  if (index < 0 || index >= count)
    return count == 1 ? "the only CUDA device is cuda:0" : format("there are %d CUDA devices, cuda:0 to cuda:%d", count, count - 1);
  const CudaDevice& d = info.devices[size_t(index)];
  if (d.capability < kOldestCapability)
    return format("%s has compute capability %s, and the kernels need %s or newer", d.name.c_str(),
                  capability(d.capability).c_str(), capability(kOldestCapability).c_str());
  return "";
}

std::string no_kernels_refusal(const CudaDevice& d) {
  return format("this build has no kernels for %s (compute capability %s): build it on this machine, or with IF_CUDA=ON for "
                "all devices", d.name.c_str(), capability(d.capability).c_str());
}

std::string cuda_failure(const std::string& error, bool lost) {
  return "cuda: " + error + (lost ? "; the device is lost to this process: start it again" : "");
}

}  // namespace df
