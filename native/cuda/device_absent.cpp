// Stands in for device.cu in a build without CUDA.
#include "cuda/device.h"

namespace df {

CudaInfo query_cuda() {
  CudaInfo info;
  info.reason = "built without CUDA (rebuild with IF_CUDA=ON npm install)";
  return info;
}

}  // namespace df
