// Which CUDA devices there are, and why one cannot be used.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace df {

struct CudaDevice {
  std::string name;
  size_t memory_bytes = 0;
  int capability = 0;  ///< compute capability, 10 · major + minor
};

/// What this build and machine offer.
struct CudaInfo {
  bool built = false;
  int runtime = 0, driver = 0;  ///< CUDA version of the build, and newest one of the driver, 1000 · major + 10 · minor; 0: none
  std::vector<CudaDevice> devices;
  std::string error;            ///< what asking for the devices gave, when it failed for another reason
};

/// Never throws, and takes no memory of the devices.
CudaInfo query_cuda();

/// The oldest compute capability that the kernels are written for.
constexpr int kOldestCapability = 80;

/// Why the device cannot be used, in one line; empty when nothing speaks against it.
std::string cuda_refusal(const CudaInfo& info, int index);
/// The same for a device whose capability is new enough, but for which this build has no kernels.
std::string no_kernels_refusal(const CudaDevice& device);

/// Message of a failed call; `lost`: every later call fails as well.
std::string cuda_failure(const std::string& error, bool lost);

}  // namespace df
