// Hopper primitives: mbarrier, bulk tensor copies (TMA), wgmma, register reallocation. The device side needs sm_90a.
#pragma once
#include "core/error.h"
#include "cuda/gpu/ptx.cuh"
#if !GPU_EMULATED
#include <cuda.h>
#endif

namespace GPU_NAMESPACE {

// ---- tensor maps -----------------------------------------------------------------------------------------------------
// A box of a tensor of 16-bit elements, dimensions fastest first. box[0] is 64 (128 bytes, the swizzle's width).
// Parts of a box outside of the tensor, also at negative coordinates, arrive as zeros: that is the padding of a
// convolution. strides[d] is in bytes; strides[0] is implied.
#if GPU_EMULATED
using TensorMap = emu::TensorMap;
inline TensorMap make_tensor_map(const void* base, int rank, const uint64_t* extents, const uint64_t* strides,
                                 const uint32_t* box, bool /*bf16*/) {
  TensorMap m{};
  if (reinterpret_cast<uintptr_t>(base) % 16) throw emu::Fault("tensor map: base not 16-byte aligned");
  m.base = base, m.rank = uint8_t(rank), m.element_bytes = 2, m.swizzle_bytes = 128;
  if (box[0] * 2 > 128) throw emu::Fault("tensor map: box row wider than the swizzle");
  for (int d = 0; d < rank; ++d) {
    if (box[d] == 0 || box[d] > 256) throw emu::Fault("tensor map: box must be 1..256");
    if (d && strides[d] % 16) throw emu::Fault("tensor map: strides must be multiples of 16 bytes");
    m.extent[d] = extents[d], m.stride[d] = d ? strides[d] : 2, m.box[d] = uint16_t(box[d]);
  }
  return m;
}
#else
using TensorMap = CUtensorMap;
inline TensorMap make_tensor_map(const void* base, int rank, const uint64_t* extents, const uint64_t* strides,
                                 const uint32_t* box, bool bf16) {
  // The driver's entry point, looked up at run time: the program links without libcuda.
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                              const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* p = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess)
      df::fail(df::ErrorCode::Unsupported, "cuda: this driver lacks cuTensorMapEncodeTiled; it must be of CUDA 12.0 or later");
    return reinterpret_cast<Encode>(p);
  }();
  TensorMap m;
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  cuuint64_t e[5], s[5];
  for (int d = 0; d < rank; ++d) e[d] = extents[d], s[d] = strides[d];
  if (encode(&m, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, cuuint32_t(rank),
             const_cast<void*>(base), e, s + 1, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
    df::fail(df::ErrorCode::Internal, "cuda: cuTensorMapEncodeTiled refused a tensor of rank %d", rank);
  return m;
}
#endif

// ---- mbarrier --------------------------------------------------------------------------------------------------------
GPU_FN void mbarrier_init(uint64_t* bar, uint32_t arrivals GPU_SITE) {
#if GPU_EMULATED
  emu::mbarrier_init(bar, arrivals, site);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals) : "memory");
#endif
}
// After the inits, before the __syncthreads that publishes them.
GPU_FN void fence_mbarrier_init() {
#if !GPU_EMULATED
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
GPU_FN void mbarrier_arrive(uint64_t* bar GPU_SITE) {
#if GPU_EMULATED
  emu::mbarrier_arrive(bar, 0, site);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
#endif
}
// Arrives, and holds the phase open until `bytes` have been copied. Comes before the copies.
GPU_FN void mbarrier_arrive_expect(uint64_t* bar, uint32_t bytes GPU_SITE) {
#if GPU_EMULATED
  emu::mbarrier_arrive(bar, bytes, site);
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes) : "memory");
#endif
}
// Until the phase of this parity is complete. A fresh barrier is in phase 0: waiting for parity 1 returns at once.
GPU_FN void mbarrier_wait(uint64_t* bar, uint32_t parity GPU_SITE) {
#if GPU_EMULATED
  emu::mbarrier_wait(bar, parity, site);
#else
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}"
      ::"r"(shared_address(bar)), "r"(parity) : "memory");
#endif
}

// ---- TMA -------------------------------------------------------------------------------------------------------------
GPU_FN void tma_load_2d(void* shared, const TensorMap* map, uint64_t* bar, int c0, int c1 GPU_SITE) {
#if GPU_EMULATED
  const int c[] = {c0, c1};
  emu::tma_load(shared, map, bar, c, 2, site);
#else
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
               ::"r"(shared_address(shared)), "l"(map), "r"(shared_address(bar)), "r"(c0), "r"(c1) : "memory");
#endif
}
GPU_FN void tma_load_4d(void* shared, const TensorMap* map, uint64_t* bar, int c0, int c1, int c2, int c3 GPU_SITE) {
#if GPU_EMULATED
  const int c[] = {c0, c1, c2, c3};
  emu::tma_load(shared, map, bar, c, 4, site);
#else
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%3, %4, %5, %6}], [%2];"
               ::"r"(shared_address(shared)), "l"(map), "r"(shared_address(bar)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
#endif
}
// By each thread that wrote shared memory with ordinary stores, before the barrier behind which wgmma or TMA reads it.
GPU_FN void fence_proxy_async() {
#if GPU_EMULATED
  emu::fence_proxy_async();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// ---- wgmma -----------------------------------------------------------------------------------------------------------
// Descriptor of an operand tile with the 128-byte swizzle; the tile starts at a multiple of 1024 bytes.
//  K-major  (rows of 64 k, 128 bytes): stride = bytes from 8 rows to the next 8 (1024); leading is ignored.
//           16 further along k: start + 32 bytes.
//  MN-major (rows of 64 mn for one k): stride = bytes from 8 k to the next 8, leading = from 64 mn to the next 64.
//           16 further along k: start + 2 * stride.
GPU_FN uint64_t wgmma_descriptor(const void* shared, uint32_t leading, uint32_t stride GPU_SITE) {
#if GPU_EMULATED
  const uint32_t start = emu::shared_offset(shared, 16, site);
#else
  const uint32_t start = shared_address(shared);
#endif
  return uint64_t((start & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 | 1ull << 62;
}

GPU_FN void wgmma_fence(GPU_SITE0) {
#if GPU_EMULATED
  emu::wgmma_fence(site);
#else
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
GPU_FN void wgmma_commit(GPU_SITE0) {
#if GPU_EMULATED
  emu::wgmma_commit(site);
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int InFlight>
GPU_FN void wgmma_wait(GPU_SITE0) {
#if GPU_EMULATED
  emu::wgmma_wait(InFlight, site);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(InFlight) : "memory");
#endif
}

// d (64 x N, this thread's N / 2 values) = a * b + (accumulate ? d : 0). Value d[4 j + r] of thread t of the warpgroup is
// row 16 (t / 32) + t % 32 / 4 + 8 (r / 2), column 8 j + 2 (t % 4) + r % 2: the layout of mma.m16n8.
template <class T, int N, bool AMnMajor, bool BMnMajor>
GPU_FN void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate GPU_SITE);
// The same with A (64 x 16) in registers, laid out as for mma.m16n8k16.
template <class T, int N, bool BMnMajor>
GPU_FN void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate GPU_SITE);

// ---- registers -------------------------------------------------------------------------------------------------------
// Moves registers between warpgroups. By all warps of the group; the kernel needs __launch_bounds__(threads, 1).
template <int Registers>
GPU_FN void give_registers() {
#if !GPU_EMULATED
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}
template <int Registers>
GPU_FN void take_registers() {
#if !GPU_EMULATED
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}

}  // namespace GPU_NAMESPACE

#include "cuda/gpu/wgmma_shapes.cuh"
