// Products of 16-bit types for sm_90a: TMA brings operands, wgmma multiplies, blocks are persistent.
//
// A tile is 128 output pixels, a box of images × rows × columns, times BN outputs. For a tap the box, moved by the tap, is
// one 4D tensor copy: what falls outside of the picture arrives as zeros, and so do channels beyond the last, which makes
// the weights of the next tap that lie behind them harmless. A linear layer is one picture of one row.
//
// Warpgroup 0 loads (one thread of it); warpgroups 1 and 2 multiply 64 pixels each. full[i]: the copies of stage i have
// come. empty[i]: all eight consumer warps have finished with stage i.
#include "cuda/gemm/plan.h"
#include "cuda/gemm/product.cuh"
#include "cuda/gpu/hopper.cuh"

namespace df::IF_CUDA_NAMESPACE {
namespace {

constexpr int BM = 128, BK = 64, kThreads = 384, kConsumers = 256, kConsumerWarps = kConsumers / 32;

struct Work {
  gemm::PixelBox box;
  int column_tiles, splits;
  int first_tile, tiles;  // of this launch
  float* partial;         // [tile of the launch][split][pair of values][thread]
  unsigned* tickets;      // one zero per tile of the launch, left zero
  bool paired;        // y and the residual may be accessed two values at a time
};

template <class T, int BN, int Stages> struct Shared {
  alignas(1024) T a[Stages][BM * BK];
  alignas(1024) T b[Stages][BN * BK];
  uint64_t full[Stages], empty[Stages];
  unsigned ticket;
};

template <int N> struct Count {
  static constexpr int value = N;
};

// One share of the sum of one tile; `tile` counts from the first of the launch.
struct Item {
  int tile, split, n, y, x, column, begin, end;
};
GPU_FN Item item_of(int index, const Work& w, int bn, int steps) {
  // columns outermost: blocks at work at one time share weights, and the picture stays in the L2 cache
  Item i;
  i.tile = index / w.splits, i.split = index - i.tile * w.splits;
  const int tile = w.first_tile + i.tile;
  const gemm::PixelBox& b = w.box;
  const int pictures = b.tiles_n * b.tiles_h * b.tiles_w, column = tile / pictures, r = tile - column * pictures;
  i.n = r / (b.tiles_h * b.tiles_w) * b.n, i.y = r / b.tiles_w % b.tiles_h * b.h, i.x = r % b.tiles_w * b.w;
  i.column = column * bn;
  i.begin = int(int64_t(steps) * i.split / w.splits), i.end = int(int64_t(steps) * (i.split + 1) / w.splits);
  return i;
}

template <class T, int BN, int Stages>
__global__ void __launch_bounds__(kThreads, 1)
product_kernel(const __grid_constant__ gpu::TensorMap x_map, const __grid_constant__ gpu::TensorMap w_map, Product<T> p,
               Work w) {
  auto& s = gpu::dynamic_shared<Shared<T, BN, Stages>>();
  const int tid = int(threadIdx.x), group = tid / 128;
  const int chunks = (p.in + BK - 1) / BK, steps = p.taps * chunks;
  const int items = w.tiles * w.splits;
  if (tid == 0) {
    for (int i = 0; i < Stages; i++) gpu::mbarrier_init(&s.full[i], 1), gpu::mbarrier_init(&s.empty[i], kConsumerWarps);
    gpu::fence_mbarrier_init();
  }
  __syncthreads();

  int stage = 0, turn = 0;  // turn: how often the ring has been gone through, modulo 2
  auto advance = [&] {
    if (++stage == Stages) stage = 0, turn ^= 1;
  };
  if (group == 0) {
    gpu::give_registers<40>();
    if (tid != 0) return;
    for (int index = int(blockIdx.x); index < items; index += int(gridDim.x)) {
      const Item at = item_of(index, w, BN, steps);
      for (int step = at.begin; step < at.end; step++, advance()) {
        const int tap = step / chunks, c = (step - tap * chunks) * BK, dy = tap / p.kernel_w, dx = tap - dy * p.kernel_w;
        gpu::mbarrier_wait(&s.empty[stage], turn ^ 1);
        gpu::mbarrier_arrive_expect(&s.full[stage], uint32_t((BM + BN) * BK * sizeof(T)));
        gpu::tma_load_4d(s.a[stage], &x_map, &s.full[stage], c, at.x - p.padding + dx, at.y - p.padding + dy, at.n);
        gpu::tma_load_2d(s.b[stage], &w_map, &s.full[stage], tap * p.in + c, at.column);
      }
    }
    return;
  }
  gpu::take_registers<232>();
  const int row0 = (group - 1) * 64, warp = tid / 32 % 4, lane = tid % 32;
  for (int index = int(blockIdx.x); index < items; index += int(gridDim.x)) {
    const Item at = item_of(index, w, BN, steps);
    float acc[BN / 2];
    int before = 0;
    for (int step = at.begin; step < at.end; step++, advance()) {
      const int c = step % chunks * BK;
      gpu::mbarrier_wait(&s.full[stage], turn);
      // straight-line batches only: a branch between wgmma of one batch makes ptxas add fences (C7519)
      auto multiply = [&](auto count) {
        gpu::wgmma_fence();
#pragma unroll
        for (int k = 0; k < decltype(count)::value; k++)
          gpu::wgmma<T, BN, false, false>(acc, gpu::wgmma_descriptor(&s.a[stage][row0 * BK + 16 * k], 16, 1024),
                                          gpu::wgmma_descriptor(&s.b[stage][16 * k], 16, 1024), step > at.begin || k > 0);
        gpu::wgmma_commit();
      };
      if (c + BK / 2 < p.in) multiply(Count<BK / 16>{});
      else multiply(Count<BK / 32>{});  // e.g. 160 channels: half of the third chunk is zeros
      gpu::wgmma_wait<1>();             // the step before has been multiplied: its stage is free
      if (step > at.begin && lane == 0) gpu::mbarrier_arrive(&s.empty[before]);
      before = stage;
    }
    gpu::wgmma_wait<0>();
    if (lane == 0) gpu::mbarrier_arrive(&s.empty[before]);

    if (w.splits > 1) {
      constexpr int64_t share = BM * BN / 2;  // pairs
      float2* const partial = reinterpret_cast<float2*>(w.partial) + int64_t(at.tile) * w.splits * share + (tid - 128);
#pragma unroll
      for (int i = 0; i < BN / 4; i++) partial[at.split * share + i * kConsumers] = make_float2(acc[2 * i], acc[2 * i + 1]);
      gpu::barrier_sync(1, kConsumers);
      if (tid == 128) s.ticket = gpu::take_ticket(w.tickets + at.tile);
      gpu::barrier_sync(1, kConsumers);
      if (s.ticket != unsigned(w.splits) - 1) continue;
      if (tid == 128) w.tickets[at.tile] = 0;
#pragma unroll
      for (int i = 0; i < BN / 4; i++) {  // the last block adds all shares, in their order
        float2 sum = make_float2(0, 0);
        for (int z = 0; z < w.splits; z++) {
          const float2 v = partial[z * share + i * kConsumers];
          sum.x += v.x, sum.y += v.y;
        }
        acc[2 * i] = sum.x, acc[2 * i + 1] = sum.y;
      }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = row0 + 16 * warp + 8 * h + lane / 4, hw = w.box.h * w.box.w;
      const int n = at.n + row / hw, y = at.y + row / w.box.w % w.box.h, x = at.x + row % w.box.w;
      if (n >= p.rows / (p.out_height * p.out_width) || y >= p.out_height || x >= p.out_width) continue;
      const int m = (n * p.out_height + y) * p.out_width + x;
#pragma unroll
      for (int j = 0; j < BN / 8; j++) {
        const int column = at.column + 8 * j + lane % 4 * 2;
        if (column < p.out) store_pair(p, w.paired, m, column, acc[4 * j + 2 * h], acc[4 * j + 2 * h + 1]);
      }
    }
  }
}

template <class T, int BN, int Stages> void run(Product<T> p, int splits, Device device) {
  if (p.taps == 1 && p.padding == 0) {  // rows: one picture of one row
    p.width = p.out_width = p.rows;
    p.height = p.out_height = 1;
  }
  Work w{};
  const int images = p.rows / (p.out_height * p.out_width);
  w.box = gemm::plan_box(images, p.out_height, p.out_width);
  w.column_tiles = int(gemm::ceil_div(p.out, BN));
  w.splits = splits;
  w.paired = in_pairs(p);
  const int64_t tiles = int64_t(w.box.tiles_n) * w.box.tiles_h * w.box.tiles_w * w.column_tiles;
  DF_CHECK(tiles * splits < (int64_t(1) << 31), "cuda: a product of %d rows and %d outputs is too large", p.rows, p.out);
  // slabs of tiles, so that the partial sums stay small; they are used one after the other
  const int64_t tile_bytes = splits * BM * BN * int64_t(sizeof(float));
  const int64_t slab = gemm::split_slab(tiles, splits, tile_bytes, kSplitWorkspace);
  const SplitScratch scratch(slab, splits, BM * BN, device);
  w.partial = scratch.partial();
  w.tickets = scratch.tickets();

  constexpr bool is_bf16 = gpu::detail::IsBf16<T>::value;
  const uint64_t e = sizeof(T), row = uint64_t(p.x.stride) * e, k = uint64_t(p.taps) * p.in;
  const uint64_t x_extents[] = {uint64_t(p.in), uint64_t(p.width), uint64_t(p.height), uint64_t(images)};
  const uint64_t x_strides[] = {e, row, row * p.width, row * p.width * p.height};
  const uint32_t x_box[] = {BK, uint32_t(w.box.w), uint32_t(w.box.h), uint32_t(w.box.n)};
  const uint64_t w_extents[] = {k, uint64_t(p.out)}, w_strides[] = {e, k * e};
  const uint32_t w_box[] = {BK, BN};
  const gpu::TensorMap x_map = gpu::make_tensor_map(p.x.data, 4, x_extents, x_strides, x_box, is_bf16);
  const gpu::TensorMap w_map = gpu::make_tensor_map(p.w, 2, w_extents, w_strides, w_box, is_bf16);
  for (int64_t first = 0; first < tiles; first += slab) {
    w.first_tile = int(first);
    w.tiles = int(std::min(slab, tiles - first));
    gpu::launch(product_kernel<T, BN, Stages>, dim3(unsigned(std::min(w.tiles * splits, multiprocessors(device)))),
                dim3(kThreads), sizeof(Shared<T, BN, Stages>), stream(device), x_map, w_map, p, w);
  }
}

}  // namespace

template <class T> void multiply_wgmma(const Product<T>& p, int item_rows, Device device) {
  const int64_t steps = p.taps * gemm::ceil_div(p.in, BK);
  const gemm::WidePlan plan = gemm::plan_wide_product(p.rows, item_rows, p.out, steps, multiprocessors(device));
  switch (plan.width) {
    case 256: return run<T, 256, 4>(p, plan.splits, device);
    case 192: return run<T, 192, 5>(p, plan.splits, device);
    case 176: return run<T, 176, 5>(p, plan.splits, device);
    case 160: return run<T, 160, 6>(p, plan.splits, device);
    case 128: return run<T, 128, 6>(p, plan.splits, device);
    default: return run<T, 64, 8>(p, plan.splits, device);
  }
}
template void multiply_wgmma(const Product<gpu::bf16>&, int, Device);
template void multiply_wgmma(const Product<gpu::f16>&, int, Device);

}  // namespace df::IF_CUDA_NAMESPACE
