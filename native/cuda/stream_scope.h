// Records: kernels of this thread go to another stream.
#pragma once
#include <cuda_runtime.h>

#include "core/device.h"

namespace df::cuda {

/// stream(device) is `stream` on this thread for the lifetime of the scope. Scopes are not nested.
class StreamScope {
 public:
  StreamScope(Device device, cudaStream_t stream);
  ~StreamScope();
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;
};

}  // namespace df::cuda
