// Threads, barriers, warp operations, atomics and conversions of the emulation, one by one.
#include <bit>
#include <cmath>

#include "core/dtype.h"
#include "emulation_case.h"

namespace df::test {
namespace {

// ---- where a thread is
void positions(int* out) {
  const int block = int(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int thread = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  out[block * int(blockDim.x * blockDim.y * blockDim.z) + thread] = 1000 * block + thread;
}
void arguments_are_copied(int* out, emu::Index3 value) {
  out[threadIdx.x] = int(value.x + value.y + value.z);
}

// ---- barriers
void block_barrier(int* out) {  // every round needs all of the last one
  GPU_SHARED(int[2][96], x);
  x[0][threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  for (int i = 0; i < 5; ++i) {
    x[1 - i % 2][threadIdx.x] = x[i % 2][(threadIdx.x + 1) % 96];
    __syncthreads();
  }
  out[threadIdx.x] = x[1][threadIdx.x];
}
void named_barriers(int* out) {  // warps 0 and 1 hand values to 2 and 3 and do not wait for them
  GPU_SHARED(int[64], x);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, pair = warp % 2;
  if (warp < 2) {
    x[threadIdx.x] = 10 * int(threadIdx.x);
    gpu::barrier_arrive(1 + pair, 64);
  } else {
    gpu::barrier_sync(1 + pair, 64);
    out[32 * pair + lane] = x[32 * pair + 31 - lane];
  }
}
void warp_barrier(int* out) {
  GPU_SHARED(int[64], x);
  const unsigned lane = threadIdx.x % 32, half = threadIdx.x / 32;
  x[threadIdx.x] = int(threadIdx.x);
  if (half) __syncwarp();
  else __syncwarp(lane < 16 ? 0xffffu : 0xffff0000u);
  out[threadIdx.x] = x[threadIdx.x ^ 15];
}
struct DynamicShared {
  int first[64];
  alignas(1024) int second[64];
};
void dynamic_shared_memory(int* out) {
  DynamicShared& s = gpu::dynamic_shared<DynamicShared>();
  s.second[threadIdx.x] = int(reinterpret_cast<uintptr_t>(s.second) % 1024 + threadIdx.x);
  s.first[threadIdx.x] = 100;
  __syncthreads();
  out[threadIdx.x] = s.first[63 - threadIdx.x] + s.second[63 - threadIdx.x];
}
void static_of_one_site(int* out) {  // a loop meets the same variable again
  for (int i = 0; i < 3; ++i) {
    GPU_SHARED(int[32], x);
    if (i == 0) x[threadIdx.x] = 0;
    x[threadIdx.x] += int(threadIdx.x);
    out[threadIdx.x] = x[threadIdx.x];
  }
}

// ---- warp operations
void shuffles(int* out) {
  const int lane = int(threadIdx.x), v = 10 * lane;
  out[lane] = __shfl_sync(~0u, v, lane + 5);  // modulo the width
  out[32 + lane] = __shfl_sync(~0u, v, lane + 5, 8);
  out[64 + lane] = __shfl_xor_sync(~0u, v, 9);
  out[96 + lane] = __shfl_up_sync(~0u, v, 3);
  out[128 + lane] = __shfl_up_sync(~0u, v, 3, 8);
  out[160 + lane] = __shfl_down_sync(~0u, v, 3);
  out[192 + lane] = __shfl_down_sync(~0u, v, 3, 8);
  out[224 + lane] = int(__shfl_xor_sync(~0u, 1e10 + v, 1) - 1e10);  // 64 bits
}
int shuffled(int i) {
  const int lane = i % 32, base = lane & ~7;
  const int sources[] = {(lane + 5) % 32, base + (lane + 5) % 8, lane ^ 9, lane < 3 ? lane : lane - 3,
                         lane % 8 < 3 ? lane : lane - 3, lane > 28 ? lane : lane + 3, lane % 8 > 4 ? lane : lane + 3, lane ^ 1};
  return 10 * sources[i / 32];
}
void masked_shuffles(int* out) {  // two masks at once
  const int lane = int(threadIdx.x);
  if (lane < 8) out[lane] = __shfl_xor_sync(0xffu, lane, 1);
  else out[lane] = __shfl_xor_sync(0xffffff00u, -lane, 8 >> (lane < 16));
}
void votes(int* out) {
  const int lane = int(threadIdx.x);
  out[lane] = int(__ballot_sync(~0u, lane % 3 == 0));
  out[32 + lane] = __any_sync(~0u, lane == 31) + 2 * __any_sync(~0u, 0);
  out[64 + lane] = __all_sync(~0u, lane < 32) + 2 * __all_sync(~0u, lane < 31);
}
int voted(int i) {
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; lane += 3) ballot |= 1u << lane;
  return i < 32 ? int(ballot) : 1;
}
void reductions(int* out) {
  const int lane = int(threadIdx.x), v = (lane * 7) % 32 - 10;
  out[lane] = __reduce_add_sync(~0u, v);
  out[32 + lane] = __reduce_max_sync(~0u, v);
  out[64 + lane] = __reduce_min_sync(~0u, v);
  out[96 + lane] = int(gpu::warp_sum(float(v)));
  out[128 + lane] = int(gpu::warp_max(float(v)));
}
int reduced(int i) {
  const int results[] = {176, 21, -10, 176, 21};  // Σ 0 … 31 - 320
  return results[i / 32];
}

// ---- atomics, tickets
void atomics(int* out) {
  atomicAdd(&out[0], int(threadIdx.x));
  atomicMax(&out[1], int(threadIdx.x + blockIdx.x));
  atomicMin(&out[2], -int(threadIdx.x));
  if (atomicExch(&out[3], 1) == 0) atomicAdd(&out[4], 1);  // one thread only
  for (int old = atomicAdd(&out[5], 0), next; (next = atomicCAS(&out[5], old, old + 2)) != old;) old = next;
}
int atomic_results(int i) {
  const int results[] = {3 * 2016, 65, -63, 1, 1, 2 * 192};
  return results[i];
}
// Whoever draws the last ticket sees what all blocks wrote.
void last_block(int* out, unsigned* counter) {
  GPU_SHARED(bool[1], last);
  if (threadIdx.x == 63) out[1 + blockIdx.x] = int(blockIdx.x) + 1;
  __syncthreads();
  if (threadIdx.x == 0) last[0] = gpu::take_ticket(counter) == gridDim.x - 1;
  __syncthreads();
  if (!last[0] || threadIdx.x) return;
  for (unsigned b = 0; b < gridDim.x; ++b) out[0] += out[1 + b];
  *counter = 0;
}

// ---- arithmetic and vectors
void arithmetic(float* out) {
  const float values[] = {rsqrtf(0.25f), __expf(0.0f), __fdividef(7.0f, 2.0f), __uint_as_float(0x40490fdbu),
                          float(__float_as_uint(1.0f) >> 23), float(__popc(0xf0f0u)), float(__ffs(8)), float(__ffs(0)),
                          float(min(3, 2)), float(max(3u, 2u)), __ldg(&out[0])};
  for (int i = 0; i < 11; ++i) out[i] = values[i];
}
float arithmetic_results(int i) {
  const float results[] = {2, 1, 3.5f, std::bit_cast<float>(0x40490fdbu), 127, 8, 4, 0, 2, 3, 0};
  return results[i];
}

// Both 16-bit types: every value, every rounding boundary, in pairs too; as the core converts.
template <class T, class Core> void check_conversions() {
  for (uint32_t i = 0; i < 65536; i++) {
    const float want = to_float(Core{uint16_t(i)}), got = gpu::to_float(T{uint16_t(i)});
    if (std::isnan(want)) {
      CHECK(std::isnan(got) && std::isnan(gpu::to_float(gpu::from_float<T>(got))));
      continue;
    }
    CHECK(std::bit_cast<uint32_t>(want) == std::bit_cast<uint32_t>(got));
    const uint32_t half = sizeof(Core) == 2 && std::is_same_v<T, gpu::bf16> ? 0x8000 : 0x1000;
    for (int step = -1; step <= 1; step++) {  // the middle between two values, and its neighbours
      const float v = std::bit_cast<float>(std::bit_cast<uint32_t>(want) + half + uint32_t(step));
      if (std::isnan(v)) continue;
      CHECK(gpu::from_float<T>(v).bits == from_float<Core>(v).bits);
      const uint32_t pair = gpu::pack2<T>(v, want);
      CHECK(uint16_t(pair) == gpu::from_float<T>(v).bits && pair >> 16 == i);
    }
    const float2 two = gpu::unpack2<T>(i | (65535 - i) << 16 >> 16 << 16);
    CHECK(std::bit_cast<uint32_t>(two.x) == std::bit_cast<uint32_t>(want));
  }
  for (float v : {0x1p-24f, 0x1.8p-25f, 0x1p-25f, 0x1.000002p-25f, 65519.0f, 65520.0f, 3.4e38f, -3.4e38f, 1e-40f})
    CHECK(gpu::from_float<T>(v).bits == from_float<Core>(v).bits);
}

const Registration language([](Suite& suite) {
  add_kernel_case<int>(suite, "positions", positions, dim3(3, 2, 2), dim3(4, 3, 2), 0, 288,
                       [](int i) { return i / 24 * 1000 + i % 24; });
  add_kernel_case<int>(suite, "arguments are copied", arguments_are_copied, dim3(1), dim3(32), 0, 32,
                       [](int) { return 6; }, emu::Index3{1, 2, 3});
  add_kernel_case<int>(suite, "__syncthreads", block_barrier, dim3(1), dim3(96), 0, 96, [](int i) { return (i + 5) % 96; });
  add_kernel_case<int>(suite, "named barriers", named_barriers, dim3(1), dim3(128), 0, 64,
                       [](int i) { return 10 * (i / 32 * 32 + 31 - i % 32); });
  add_kernel_case<int>(suite, "__syncwarp", warp_barrier, dim3(1), dim3(64), 0, 64, [](int i) { return i ^ 15; });
  add_kernel_case<int>(suite, "dynamic shared memory", dynamic_shared_memory, dim3(1), dim3(64), sizeof(DynamicShared),
                       64, [](int i) { return 163 - i; });
  add_kernel_case<int>(suite, "static shared memory", static_of_one_site, dim3(1), dim3(32), 0, 32,
                       [](int i) { return 3 * i; });
  add_kernel_case<int>(suite, "shuffles", shuffles, dim3(1), dim3(32), 0, 256, shuffled);
  add_kernel_case<int>(suite, "shuffles of two masks", masked_shuffles, dim3(1), dim3(32), 0, 32,
                       [](int i) { return i < 8 ? i ^ 1 : i < 16 ? -(i ^ 4) : -(i ^ 8); });
  add_kernel_case<int>(suite, "votes", votes, dim3(1), dim3(32), 0, 96, voted);
  add_kernel_case<int>(suite, "reductions", reductions, dim3(1), dim3(32), 0, 160, reduced);
  add_kernel_case<int>(suite, "atomics", atomics, dim3(3), dim3(64), 0, 6, atomic_results);
  add_kernel_case<float>(suite, "arithmetic", arithmetic, dim3(1), dim3(1), 0, 11, arithmetic_results);
  suite.add("emulation tickets", [] {
    in_every_schedule([&](const EmulationSchedule&) {
      unsigned counter = 0;
      CHECK(run_kernel(last_block, dim3(9), dim3(64), 0, 10, &counter)[0] == 45);
      CHECK(counter == 0);
    });
  });
  suite.add("emulation conversions of bf16", check_conversions<gpu::bf16, BFloat16>);
  suite.add("emulation conversions of f16", check_conversions<gpu::f16, Float16>);
  suite.add("emulation statistics", [] {
    emu::Statistics& s = emu::statistics();
    s = {};
    run_kernel(block_barrier, dim3(1), dim3(96), 0, 96);
    CHECK(s.barriers == 6 && s.switches >= 96);
    run_kernel(reductions, dim3(1), dim3(32), 0, 160);
    CHECK(s.collectives == 32 * 13);
  });
});

}  // namespace
}  // namespace df::test
