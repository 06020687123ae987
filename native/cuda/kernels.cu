#include "cuda/kernels.h"

#include <cstdlib>
#include <cstring>

namespace df::IF_CUDA_NAMESPACE {

Kernels default_kernels() {
  static const Kernels kernels = [] {
    const char* name = std::getenv("IF_CUDA_KERNELS");
    if (!name || !std::strcmp(name, "plain")) return Kernels::Plain;
    DF_CHECK(!std::strcmp(name, "tuned"), "IF_CUDA_KERNELS must be plain or tuned, got %s", name);
    return Kernels::Tuned;
  }();
  return kernels;
}

}  // namespace df::IF_CUDA_NAMESPACE
