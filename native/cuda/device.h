#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace df {

struct CudaDevice {
  std::string name;
  size_t memory_bytes = 0;
};

/// What this build and machine offer; never throws. Without a driver or device `reason` says why.
struct CudaInfo {
  bool built = false;
  std::vector<CudaDevice> devices;
  std::string reason;
};
CudaInfo query_cuda();

}  // namespace df
