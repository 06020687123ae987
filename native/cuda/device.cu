#include "cuda/device.h"

#include <cuda_runtime.h>

namespace df {

CudaInfo query_cuda() {
  CudaInfo info;
  info.built = true;
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  for (int i = 0; status == cudaSuccess && i < count; i++) {
    cudaDeviceProp properties;
    status = cudaGetDeviceProperties(&properties, i);
    if (status == cudaSuccess) info.devices.push_back({properties.name, properties.totalGlobalMem});
  }
  if (status != cudaSuccess) {
    info.reason = cudaGetErrorString(status);
    (void)cudaGetLastError();
  } else if (count == 0) {
    info.reason = "no CUDA device";
  }
  return info;
}

}  // namespace df
