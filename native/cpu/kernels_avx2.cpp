#include <immintrin.h>
#include <stddef.h>

#include "cpu/kernels.h"

namespace df {
namespace {
#include "cpu/kernels/scalar.h"
#include "cpu/vec_avx2.h"
#include "cpu/kernels/all.h"
}  // namespace

constinit const CpuKernels kernels_avx2 = kTable;

}  // namespace df
