// Kernels with one planted defect each: the emulation finds it, and says so in the expected words.
#include "emulation_case.h"

namespace df::test {
namespace {

// ---- barriers
void barrier_in_branch(int* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 1;
}
void two_barriers(int* out) {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
  out[threadIdx.x] = 1;
}
void exit_before_barrier(int* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
void barrier_counts(int* out) {
  gpu::barrier_sync(1, threadIdx.x < 32 ? 64 : 96);
  out[threadIdx.x] = 1;
}
void barrier_number(int* out) {
  gpu::barrier_sync(16, 32);
  out[threadIdx.x] = 1;
}
void barrier_of_half_a_warp(int* out) {
  gpu::barrier_sync(1, 48);
  out[threadIdx.x] = 1;
}
void barrier_never_met(int* out) {
  if (threadIdx.x < 32) gpu::barrier_sync(1, 64);
  out[threadIdx.x] = 1;
}

// ---- warp operations
void shuffle_with_missing_lane(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(~0u, int(threadIdx.x), 1);
}
void shuffle_outside_of_mask(int* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffu, int(threadIdx.x), 1); }
void divergent_warp(int* out) {
  if (threadIdx.x & 1) out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 2);
  else out[threadIdx.x] = int(__ballot_sync(~0u, 1));
}

// ---- shared memory
void ldmatrix_misaligned(int* out) {
  struct Shared { alignas(128) uint16_t x[1024]; };
  uint32_t r[4];
  gpu::ldmatrix4(r, &gpu::dynamic_shared<Shared>().x[threadIdx.x % 32 * 8 + 1]);
  out[threadIdx.x] = int(r[0]);
}
void ldmatrix_outside(int* out) {
  struct Shared { alignas(128) uint16_t x[64]; };
  uint32_t r[4];
  gpu::ldmatrix4(r, &gpu::dynamic_shared<Shared>().x[threadIdx.x % 32 * 8]);
  out[threadIdx.x] = int(r[0]);
}
void larger_than_launched(int* out) {
  struct Shared { int x[4096]; };
  out[threadIdx.x] = gpu::dynamic_shared<Shared>().x[threadIdx.x];
}
void too_much_static(int* out) {
  GPU_SHARED(int[80000], x);
  out[threadIdx.x] = x[threadIdx.x];
}
void nothing(int* out) { out[threadIdx.x] = 1; }

// ---- copies
struct CopyTarget {
  alignas(16) int x[256];
};
void copy_outside(int* out) { gpu::cp_async16(&gpu::dynamic_shared<CopyTarget>().x[256], out, true); }
void copy_to_misaligned(int* out) { gpu::cp_async16(&gpu::dynamic_shared<CopyTarget>().x[1], out, true); }
void copy_from_misaligned(int* out) { gpu::cp_async16(&gpu::dynamic_shared<CopyTarget>().x[0], out + 1, true); }

// ---- mbarriers and bulk copies
struct Barriers {
  alignas(1024) gpu::bf16 box[64 * 8];
  uint64_t bar;
};
void mbarrier_never_completed(int* out) {
  Barriers& s = gpu::dynamic_shared<Barriers>();
  if (threadIdx.x == 0) gpu::mbarrier_init(&s.bar, 2);
  __syncthreads();
  if (threadIdx.x == 0) gpu::mbarrier_arrive(&s.bar);
  gpu::mbarrier_wait(&s.bar, 0);
  out[threadIdx.x] = 1;
}
void mbarrier_uninitialised(int* out) {
  gpu::mbarrier_wait(&gpu::dynamic_shared<Barriers>().bar, 0);
  out[threadIdx.x] = 1;
}
void mbarrier_in_a_register(int* out) {
  uint64_t bar;
  gpu::mbarrier_init(&bar, 1);
  out[threadIdx.x] = 1;
}
void mbarrier_bytes(int* out, int expected) {  // the box has 1024
  Barriers& s = gpu::dynamic_shared<Barriers>();
  alignas(16) static gpu::bf16 tensor[64 * 8];
  const uint64_t extents[] = {64, 8}, strides[] = {2, 128};
  const uint32_t box[] = {64, 8};
  const gpu::TensorMap map = gpu::make_tensor_map(tensor, 2, extents, strides, box, true);
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(&s.bar, 1);
    gpu::mbarrier_arrive_expect(&s.bar, uint32_t(expected));
    gpu::tma_load_2d(s.box, &map, &s.bar, 0, 0);
  }
  __syncthreads();
  gpu::mbarrier_wait(&s.bar, 0);
  out[threadIdx.x] = 1;
}
void bulk_copy_misaligned(int* out) {
  Barriers& s = gpu::dynamic_shared<Barriers>();
  gpu::TensorMap map{};
  map.rank = 2, map.element_bytes = 2, map.swizzle_bytes = 128, map.box[0] = 64, map.box[1] = 1;
  gpu::mbarrier_init(&s.bar, 1);
  gpu::tma_load_2d(s.box + 64, &map, &s.bar, 0, 0);
  out[0] = 1;
}
void bulk_copy_of_other_rank(int* out) {
  Barriers& s = gpu::dynamic_shared<Barriers>();
  gpu::TensorMap map{};
  map.rank = 2;
  gpu::mbarrier_init(&s.bar, 1);
  gpu::tma_load_4d(s.box, &map, &s.bar, 0, 0, 0, 0);
  out[0] = 1;
}

// ---- wgmma
struct Operands {
  alignas(1024) gpu::bf16 a[64 * 64], b[64 * 64];
};
void wgmma_without_fence(int* out) {
  Operands& s = gpu::dynamic_shared<Operands>();
  float d[32];
  gpu::wgmma<gpu::bf16, 64, false, false>(d, gpu::wgmma_descriptor(s.a, 16, 1024), gpu::wgmma_descriptor(s.b, 16, 1024), false);
  gpu::wgmma_commit();
  gpu::wgmma_wait<0>();
  out[threadIdx.x] = int(d[0]);
}
void wgmma_of_two_minds(int* out) {
  Operands& s = gpu::dynamic_shared<Operands>();
  float d[32] = {};
  gpu::wgmma_fence();
  gpu::wgmma<gpu::bf16, 64, false, false>(d, gpu::wgmma_descriptor(s.a, 16, 1024), gpu::wgmma_descriptor(s.b, 16, 1024), threadIdx.x > 64);
  gpu::wgmma_commit();
  gpu::wgmma_wait<0>();
  out[threadIdx.x] = int(d[0]);
}
void wgmma_outside(int* out) {
  Operands& s = gpu::dynamic_shared<Operands>();
  float d[32];
  gpu::wgmma_fence();
  gpu::wgmma<gpu::bf16, 64, false, false>(d, gpu::wgmma_descriptor(s.a, 16, 1024), gpu::wgmma_descriptor(s.b, 16, 2048), false);
  gpu::wgmma_commit();
  gpu::wgmma_wait<0>();
  out[threadIdx.x] = int(d[0]);
}
void wgmma_in_a_small_block(int* out) {
  gpu::wgmma_fence();
  out[threadIdx.x] = 1;
}

void expect_fault(const char* words, const std::function<void()>& launch) {
  in_every_schedule([&](const EmulationSchedule& s) {
    try {
      launch();
    } catch (const emu::Fault& f) {
      if (std::string(f.what()).find(words) == std::string::npos)
        fail_case("%s: \"%s\" is not in: %s", s.name, words, f.what());
      return;
    }
    fail_case("%s: no fault", s.name);
  });
}

// What only some schedules show: they must not agree.
void expect_difference(const std::function<std::vector<int>()>& run) {
  std::vector<int> first;
  int differ = 0;
  in_every_schedule([&](const EmulationSchedule&) {
    const std::vector<int> out = run();
    if (first.empty()) first = out;
    differ += out != first;
  });
  CHECK(differ > 0);
}

void missing_barrier(int* out) {
  GPU_SHARED(int[64], x);
  x[threadIdx.x] = int(threadIdx.x) + 1;
  out[threadIdx.x] = x[63 - threadIdx.x];
}
void missing_warp_barrier(int* out) {
  GPU_SHARED(int[32], x);
  x[threadIdx.x] = int(threadIdx.x) + 1;
  out[threadIdx.x] = x[31 - threadIdx.x];
}
void missing_copy_wait(int* out, const int* in) {
  CopyTarget& s = gpu::dynamic_shared<CopyTarget>();
  gpu::cp_async16(&s.x[threadIdx.x * 4], in + threadIdx.x * 4, true);
  gpu::cp_async_commit();
  __syncthreads();
  out[threadIdx.x] = s.x[255 - threadIdx.x * 4];
  gpu::cp_async_wait<0>();
}
void copy_wait_one_group_short(int* out, const int* in) {
  CopyTarget& s = gpu::dynamic_shared<CopyTarget>();
  for (int i = 0; i < 2; ++i) {
    gpu::cp_async16(&s.x[128 * i + threadIdx.x * 4], in + threadIdx.x * 4, true);
    gpu::cp_async_commit();
  }
  gpu::cp_async_wait<1>();
  __syncthreads();
  out[threadIdx.x] = s.x[128 + threadIdx.x];
  gpu::cp_async_wait<0>();
}
void never_written(int* out) {
  GPU_SHARED(int[64], x);
  if (threadIdx.x != 7) x[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = x[threadIdx.x] & 0xff;
}
void left_by_another_block(int* out) {
  GPU_SHARED(int[1], x);
  out[blockIdx.x] = x[0] & 0xff;
  if (threadIdx.x == 0) x[0] = int(blockIdx.x);
}
void block_order(int* out, unsigned* counter) {
  if (threadIdx.x == 0) out[blockIdx.x] = int(gpu::take_ticket(counter));
}
void atomic_order(int* out) { out[1 + threadIdx.x] = atomicAdd(out, 1); }
void wgmma_not_waited_for(int* out) {
  Operands& s = gpu::dynamic_shared<Operands>();
  for (int i = int(threadIdx.x); i < 64 * 64; i += 128) s.a[i] = s.b[i] = gpu::from_float<gpu::bf16>(1.0f);
  gpu::fence_proxy_async();
  __syncthreads();
  float d[32] = {};
  gpu::wgmma_fence();
  gpu::wgmma<gpu::bf16, 64, false, false>(d, gpu::wgmma_descriptor(s.a, 16, 1024), gpu::wgmma_descriptor(s.b, 16, 1024), true);
  gpu::wgmma_commit();
  out[threadIdx.x] = int(d[0]);
  gpu::wgmma_wait<0>();
}

void add_fault(Suite& suite, const char* name, const char* words, void (*kernel)(int*), unsigned threads, size_t shared) {
  suite.add(std::string("emulation fault ") + name, [=] {
    expect_fault(words, [&] { run_kernel(kernel, dim3(1), dim3(threads), shared, 4096); });
  });
}

void add_difference(Suite& suite, const char* name, const std::function<std::vector<int>()>& run) {
  suite.add(std::string("emulation difference ") + name, [=] { expect_difference(run); });
}

#if !defined(__SANITIZE_THREAD__)  // it would report what is planted here, and what a fault leaves unfinished
const Registration faults([](Suite& suite) {
  add_fault(suite, "barrier in a branch", "returned", barrier_in_branch, 64, 0);
  add_fault(suite, "two barriers", "divergent __syncthreads", two_barriers, 64, 0);
  add_fault(suite, "exit before a barrier", "returned", exit_before_barrier, 64, 0);
  add_fault(suite, "barrier counts", "two thread counts", barrier_counts, 96, 0);
  add_fault(suite, "barrier number", "out of 0..15", barrier_number, 32, 0);
  add_fault(suite, "barrier of half a warp", "no multiple of 32", barrier_of_half_a_warp, 96, 0);
  add_fault(suite, "barrier never met", "deadlock", barrier_never_met, 64, 0);
  add_fault(suite, "missing lane", "", shuffle_with_missing_lane, 32, 0);
  add_fault(suite, "lane outside of the mask", "not in its own mask", shuffle_outside_of_mask, 32, 0);
  add_fault(suite, "divergent warp", "divergent warp", divergent_warp, 32, 0);
  add_fault(suite, "ldmatrix misaligned", "multiple of 16", ldmatrix_misaligned, 32, 2048);
  add_fault(suite, "ldmatrix outside", "not in the block's shared memory", ldmatrix_outside, 32, 128);
  add_fault(suite, "dynamic shared memory larger than launched", "launched with 128", larger_than_launched, 32, 128);
  add_fault(suite, "too much shared memory asked for", "limit", nothing, 32, 300 * 1024);
  add_fault(suite, "too much static shared memory", "too much static", too_much_static, 32, 0);
  add_fault(suite, "too many threads", "block of 2048 threads", nothing, 2048, 0);
  add_fault(suite, "cp.async outside", "not in the block's shared memory", copy_outside, 32, 1024);
  add_fault(suite, "cp.async to misaligned", "shared address not aligned", copy_to_misaligned, 32, 1024);
  add_fault(suite, "cp.async from misaligned", "global address not aligned", copy_from_misaligned, 32, 1024);
  add_fault(suite, "mbarrier short of arrivals", "deadlock", mbarrier_never_completed, 64, sizeof(Barriers));
  add_fault(suite, "mbarrier uninitialised", "not initialised", mbarrier_uninitialised, 64, sizeof(Barriers));
  add_fault(suite, "mbarrier in a register", "not in the block's shared memory", mbarrier_in_a_register, 32, 0);
  add_fault(suite, "bulk copy misaligned", "target not aligned", bulk_copy_misaligned, 1, sizeof(Barriers));
  add_fault(suite, "bulk copy of another rank", "another rank", bulk_copy_of_other_rank, 1, sizeof(Barriers));
  for (const auto& [bytes, words] : {std::pair(1000, "more bytes than its mbarrier expects"), {1040, "deadlock"}})
    suite.add(format("emulation fault mbarrier that expects %d of 1024 bytes", bytes), [bytes = bytes, words = words] {
      expect_fault(words, [&] { run_kernel(mbarrier_bytes, dim3(1), dim3(32), sizeof(Barriers), 32, bytes); });
    });
  add_fault(suite, "wgmma without fence", "without wgmma.fence", wgmma_without_fence, 128, sizeof(Operands));
  add_fault(suite, "wgmma of two minds", "differ within the warpgroup", wgmma_of_two_minds, 128, sizeof(Operands));
  add_fault(suite, "wgmma outside", "outside of dynamic shared memory", wgmma_outside, 128, sizeof(Operands));
  add_fault(suite, "wgmma in a small block", "whole number of warpgroups", wgmma_in_a_small_block, 64, 0);
  suite.add("emulation fault tensor maps", [] {
    alignas(16) static uint16_t data[256];
    const auto make = [](const void* base, uint64_t stride, uint32_t width, uint32_t height) {
      const uint64_t extents[] = {16, 16}, strides[] = {2, stride};
      const uint32_t box[] = {width, height};
      gpu::make_tensor_map(base, 2, extents, strides, box, true);
    };
    make(data, 32, 64, 16);
    expect_fault("base not 16-byte aligned", [&] { make(data + 1, 32, 64, 16); });
    expect_fault("strides must be multiples of 16", [&] { make(data, 36, 64, 16); });
    expect_fault("wider than the swizzle", [&] { make(data, 32, 65, 16); });
    expect_fault("1..256", [&] { make(data, 32, 64, 257); });
  });

  const auto result = [](void (*kernel)(int*), unsigned blocks, unsigned threads, size_t shared) {
    return [=] { return run_kernel(kernel, dim3(blocks), dim3(threads), shared, 256); };
  };
  add_difference(suite, "missing barrier", result(missing_barrier, 1, 64, 0));
  add_difference(suite, "missing warp barrier", result(missing_warp_barrier, 1, 32, 0));
  add_difference(suite, "never written", result(never_written, 1, 64, 0));
  add_difference(suite, "left by another block", result(left_by_another_block, 8, 32, 0));
  add_difference(suite, "order of atomics", result(atomic_order, 1, 64, 0));
  add_difference(suite, "wgmma not waited for", result(wgmma_not_waited_for, 1, 128, sizeof(Operands)));
  for (auto* kernel : {missing_copy_wait, copy_wait_one_group_short})
    add_difference(suite, kernel == missing_copy_wait ? "missing copy wait" : "copy wait one group short", [=] {
      alignas(16) static int in[256];
      std::fill(in, in + 256, 3);
      return run_kernel(kernel, dim3(1), dim3(kernel == missing_copy_wait ? 64 : 32), sizeof(CopyTarget), 256,
                        static_cast<const int*>(in));
    });
  add_difference(suite, "order of blocks", [] {
    unsigned counter = 0;
    return run_kernel(block_order, dim3(16), dim3(32), 0, 16, &counter);
  });
});
#endif

}  // namespace
}  // namespace df::test
