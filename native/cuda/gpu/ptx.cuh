// sm_80 primitives: cp.async, ldmatrix, mma.sync, named barriers, release/acquire. PTX on the device, emu:: on the host.
#pragma once
#include "cuda/gpu/types.cuh"

namespace GPU_NAMESPACE {

#if GPU_EMULATED
#define GPU_SITE , emu::Site site = EMU_HERE
#define GPU_SITE0 emu::Site site = EMU_HERE
#else
#define GPU_SITE
#define GPU_SITE0
GPU_FN uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
#endif

// ---- asynchronous copies, 16 bytes each, cached in L2 only ----------------------------------------------------------
// `valid` false writes zeros and reads nothing; `global` may then be any address.
GPU_FN void cp_async16(void* shared, const void* global, bool valid GPU_SITE) {
#if GPU_EMULATED
  emu::cp_async(shared, global, 16, valid, site);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0) : "memory");
#endif
}
GPU_FN void cp_async_commit() {
#if GPU_EMULATED
  emu::cp_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int InFlight>
GPU_FN void cp_async_wait(GPU_SITE0) {
#if GPU_EMULATED
  emu::cp_async_wait(InFlight, site);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(InFlight) : "memory");
#endif
}

// ---- ldmatrix: four 8x8 tiles of 16-bit values. Lane l gives the address of row l % 8 of tile l / 8. -----------------
GPU_FN void ldmatrix4(uint32_t (&r)[4], const void* row GPU_SITE) {
#if GPU_EMULATED
  emu::LdmatrixArgs args{row, r, 4, false};
  emu::ldmatrix(args, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
#endif
}
GPU_FN void ldmatrix4_transposed(uint32_t (&r)[4], const void* row GPU_SITE) {
#if GPU_EMULATED
  emu::LdmatrixArgs args{row, r, 4, true};
  emu::ldmatrix(args, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
#endif
}

// ---- mma: acc[i][j] += a[i] (16 x 16) * b[j] (16 x 8), fp32 accumulation ---------------------------------------------
// One call for a whole warp tile: on the device it unrolls, in the emulation it is one meeting of the 32 lanes.
template <class T, int MT, int NT>
GPU_FN void mma(float (&acc)[MT][NT][4], const uint32_t (&a)[MT][4], const uint32_t (&b)[NT][2] GPU_SITE) {
  constexpr bool is_bf16 = detail::IsBf16<T>::value;
#if GPU_EMULATED
  emu::MmaArgs args{&acc[0][0][0], &a[0][0], &b[0][0], MT, NT, is_bf16};
  emu::mma(args, site);
#else
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float(&c)[4] = acc[i][j];
      if constexpr (is_bf16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
      else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
    }
#endif
}

// ---- named barriers (1..15; 0 is __syncthreads) ------------------------------------------------------------------------
GPU_FN void barrier_sync(int id, int threads GPU_SITE) {
#if GPU_EMULATED
  emu::barrier(id, threads, true, site);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}
GPU_FN void barrier_arrive(int id, int threads GPU_SITE) {
#if GPU_EMULATED
  emu::barrier(id, threads, false, site);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// ---- between blocks ------------------------------------------------------------------------------------------------------
// Takes a ticket: what this thread (and, through a barrier before it, its block) wrote is visible to whoever draws a
// later ticket. The only way blocks of one launch may meet: a block never waits for another.
GPU_FN unsigned take_ticket(unsigned* counter) {
#if GPU_EMULATED
  return __atomic_fetch_add(counter, 1u, __ATOMIC_ACQ_REL);
#else
  unsigned old;
  asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], 1;" : "=r"(old) : "l"(counter) : "memory");
  return old;
#endif
}

// ---- reductions with a fixed order ---------------------------------------------------------------------------------------
GPU_FN float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}
GPU_FN float warp_max(float v) {
#pragma unroll
  for (int d = 16; d; d /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
  return v;
}

}  // namespace GPU_NAMESPACE
