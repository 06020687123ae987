// cp.async, mbarriers and bulk tensor copies of the emulation.
#include "emulation_case.h"

namespace df::test {
namespace {

// ---- cp.async: a ring of groups
struct Ring {
  alignas(16) int slot[3][128];
};
void copy_ring(int* out, const int* in) {  // the sum of eight tiles, two groups in flight
  Ring& s = gpu::dynamic_shared<Ring>();
  const auto issue = [&](int tile) {
    if (tile < 8) gpu::cp_async16(&s.slot[tile % 3][4 * threadIdx.x], in + 128 * tile + 4 * threadIdx.x, true);
    gpu::cp_async_commit();
  };
  issue(0);
  issue(1);
  int sum = 0;
  for (int tile = 0; tile < 8; ++tile) {
    gpu::cp_async_wait<1>();
    __syncthreads();
    issue(tile + 2);
    for (int i = 0; i < 4; ++i) sum += s.slot[tile % 3][127 - threadIdx.x - 32 * i];
  }
  out[threadIdx.x] = sum;
}
void copy_zeros(int* out, const int* in) {  // `valid` false reads nothing
  Ring& s = gpu::dynamic_shared<Ring>();
  const bool valid = threadIdx.x % 2 == 0;
  gpu::cp_async16(&s.slot[0][4 * threadIdx.x], valid ? in + 4 * threadIdx.x : nullptr, valid);
  gpu::cp_async_commit();
  gpu::cp_async_wait<0>();
  out[threadIdx.x] = s.slot[0][4 * threadIdx.x + 3];
}

const int* counted() {
  alignas(16) static int values[1024];
  for (int i = 0; i < 1024; i++) values[i] = i;
  return values;
}

// ---- mbarriers
struct Handshake {
  uint64_t full[2], empty[2];
  int value[2];
};
// A thread produces, a warp consumes, through a ring of two slots: parities of several rounds. (The other threads of the
// first warp must not wait with it: they could fall two phases behind, and a parity tells apart one.)
void mbarrier_ring(int* out) {
  Handshake& s = gpu::dynamic_shared<Handshake>();
  if (threadIdx.x == 0)
    for (int i = 0; i < 2; ++i) gpu::mbarrier_init(&s.full[i], 1), gpu::mbarrier_init(&s.empty[i], 32);
  gpu::fence_mbarrier_init();
  __syncthreads();
  for (int step = 0; step < 7; ++step) {
    const int slot = step % 2;
    const uint32_t parity = uint32_t(step) / 2 % 2;
    if (threadIdx.x == 0) {
      gpu::mbarrier_wait(&s.empty[slot], parity ^ 1);  // of a fresh barrier: returns at once
      s.value[slot] = step * step;
      gpu::mbarrier_arrive(&s.full[slot]);
    } else if (threadIdx.x >= 32) {
      gpu::mbarrier_wait(&s.full[slot], parity);
      out[32 * step + threadIdx.x % 32] = s.value[slot];
      gpu::mbarrier_arrive(&s.empty[slot]);
    }
  }
}

// ---- bulk tensor copies
struct Box {
  alignas(1024) gpu::bf16 x[64 * 64];
  uint64_t bar;
};
// 16-byte chunk c of row r lies at chunk c ^ (r % 8).
GPU_FN int swizzled(int row, int column) { return row * 64 + ((column / 8) ^ (row % 8)) * 8 + column % 8; }

void box_2d(int* out, gpu::TensorMap map, int c0, int c1, int box_rows) {
  Box& s = gpu::dynamic_shared<Box>();
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(&s.bar, 1);
    gpu::fence_mbarrier_init();
    gpu::mbarrier_arrive_expect(&s.bar, uint32_t(128 * box_rows));
    gpu::tma_load_2d(s.x, &map, &s.bar, c0, c1);
  }
  __syncthreads();
  gpu::mbarrier_wait(&s.bar, 0);
  for (int i = int(threadIdx.x); i < 64 * box_rows; i += 32) out[i] = s.x[swizzled(i / 64, i % 64)].bits;
}
void box_4d(int* out, gpu::TensorMap map, int c, int x, int y, int n) {
  Box& s = gpu::dynamic_shared<Box>();
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(&s.bar, 1);
    gpu::mbarrier_arrive_expect(&s.bar, 64 * 64 * 2);
    gpu::tma_load_4d(s.x, &map, &s.bar, c, x, y, n);
  }
  __syncthreads();
  gpu::mbarrier_wait(&s.bar, 0);
  for (int i = int(threadIdx.x); i < 64 * 64; i += 32) out[i] = s.x[swizzled(i / 64, i % 64)].bits;
}

// A tensor whose elements are their own numbers (from 1), with rows of a stride that is no power of two.
constexpr int kChannels = 72, kStride = 80, kWidth = 9, kHeight = 7, kImages = 3;
const uint16_t* numbered() {
  alignas(16) static uint16_t values[kStride * kWidth * kHeight * kImages];
  for (size_t i = 0; i < std::size(values); i++) values[i] = uint16_t(i + 1);
  return values;
}
int number(int c, int x, int y, int n) {  // outside: zero
  if (c < 0 || c >= kChannels || x < 0 || x >= kWidth || y < 0 || y >= kHeight || n < 0 || n >= kImages) return 0;
  return ((n * kHeight + y) * kWidth + x) * kStride + c + 1;
}

void add_boxes(Suite& suite) {
  suite.add("emulation bulk copy of 2D boxes", [] {
    const uint64_t extents[] = {kChannels, kWidth * kHeight}, strides[] = {2, 2 * kStride};
    for (const auto& [c0, c1, rows] : {std::tuple(0, 0, 64), {64, 5, 16}, {-8, -3, 32}, {72, 0, 8}, {0, 60, 64}}) {
      const uint32_t box[] = {64, uint32_t(rows)};
      const gpu::TensorMap map = gpu::make_tensor_map(numbered(), 2, extents, strides, box, true);
      in_every_schedule([&, c0 = c0, c1 = c1, rows = rows](const EmulationSchedule& s) {
        const auto out = run_kernel(box_2d, dim3(1), dim3(32), sizeof(Box), 4096, map, c0, c1, rows);
        for (int i = 0; i < 64 * rows; i++) {
          const int row = c1 + i / 64, want = row < 0 ? 0 : number(c0 + i % 64, row % kWidth, row / kWidth, 0);
          if (out[size_t(i)] != (row >= kWidth * kHeight ? 0 : want))
            fail_case("%s: box at (%d, %d), %d: %d, expected %d", s.name, c0, c1, i, out[size_t(i)], want);
        }
      });
    }
  });
  suite.add("emulation bulk copy of 4D boxes", [] {
    const uint64_t extents[] = {kChannels, kWidth, kHeight, kImages},
                   strides[] = {2, 2 * kStride, 2 * kStride * kWidth, 2 * kStride * kWidth * kHeight};
    const uint32_t box[] = {64, 8, 4, 2};
    const gpu::TensorMap map = gpu::make_tensor_map(numbered(), 4, extents, strides, box, true);
    for (const auto& [c, x, y, n] : {std::tuple(0, 0, 0, 0), {64, 0, 0, 1}, {0, -1, -1, 0}, {0, 8, 4, 1}, {8, 1, 6, 2}})
      in_every_schedule([&, c = c, x = x, y = y, n = n](const EmulationSchedule& s) {
        const auto out = run_kernel(box_4d, dim3(1), dim3(32), sizeof(Box), 4096, map, c, x, y, n);
        for (int i = 0; i < 4096; i++) {
          const int row = i / 64, want = number(c + i % 64, x + row % 8, y + row / 8 % 4, n + row / 32);
          if (out[size_t(i)] != want)
            fail_case("%s: box at (%d, %d, %d, %d), %d: %d, expected %d", s.name, c, x, y, n, i, out[size_t(i)], want);
        }
      });
  });
}

const Registration async([](Suite& suite) {
  add_kernel_case<int>(suite, "cp.async ring", copy_ring, dim3(1), dim3(32), sizeof(Ring), 32, [](int i) {
    int sum = 0;
    for (int tile = 0; tile < 8; tile++)
      for (int j = 0; j < 4; j++) sum += 128 * tile + 127 - i - 32 * j;
    return sum;
  }, counted());
  add_kernel_case<int>(suite, "cp.async zeros", copy_zeros, dim3(1), dim3(32), sizeof(Ring), 32,
                       [](int i) { return i % 2 ? 0 : 4 * i + 3; }, counted());
  add_kernel_case<int>(suite, "mbarrier ring", mbarrier_ring, dim3(1), dim3(64), sizeof(Handshake), 7 * 32,
                       [](int i) { return i / 32 * (i / 32); });
  add_boxes(suite);
});

}  // namespace
}  // namespace df::test
