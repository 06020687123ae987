#include <stddef.h>

#include "cpu/kernels.h"

namespace df {
namespace {
#include "cpu/kernels/scalar.h"
#include "cpu/vec_portable.h"
#include "cpu/kernels/all.h"
}  // namespace

constinit const CpuKernels kernels_portable = kTable;

}  // namespace df
