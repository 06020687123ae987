#include "cuda/kernels.h"

#include <cstdlib>
#include <cstring>

namespace df::IF_CUDA_NAMESPACE {

// Plain is the default until bench/results shows faster kernels correct and faster on the architecture.
Kernels default_kernels() {
  static const Kernels kernels = [] {
    const char* name = std::getenv("IF_CUDA_KERNELS");
    if (!name || !std::strcmp(name, "plain")) return Kernels::Plain;
    if (!std::strcmp(name, "mma")) return Kernels::Mma;
    DF_CHECK(!std::strcmp(name, "wgmma"), "IF_CUDA_KERNELS must be plain, mma or wgmma, got \"%s\"", name);
    return Kernels::Wgmma;
  }();
  return kernels;
}

}  // namespace df::IF_CUDA_NAMESPACE
