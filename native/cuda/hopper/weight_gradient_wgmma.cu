// Weight gradients of 16-bit types for sm_90a, built as products_wgmma.cu. The sum runs over boxes of 64 pixels; of dy and
// of x, moved by the tap, TMA brings 64 channels by 64 pixels at a time, which is wgmma's layout of an operand that is
// contiguous along the result ("MN-major").
#include "cuda/gemm/plan.h"
#include "cuda/gemm/weight_gradient.cuh"
#include "cuda/gpu/hopper.cuh"

namespace df::IF_CUDA_NAMESPACE {
namespace {

constexpr int BM = kGradientTile, BN = kGradientTile, BK = 64, kStages = 6;
constexpr int kThreads = 384, kConsumerWarps = 8, kBoxValues = 64 * BK;
static_assert(BM == 128, "64 outputs per consumer warpgroup");

template <class T> struct Shared {
  alignas(1024) T dy[kStages][BM / 64][kBoxValues];
  alignas(1024) T x[kStages][BN / 64][kBoxValues];
  uint64_t full[kStages], empty[kStages];
};

struct Work {
  gemm::PixelBox box;  // of a pair of items
  int out_tiles, in_tiles;
};

// One share of the sum of one tile.
struct Item {
  int share, out, tap, in, begin, end;
};
template <class T> GPU_FN Item item_of(int index, const WeightGradient<T>& p, const Work& w) {
  // taps innermost: blocks at work at one time read the same pixels
  Item i;
  i.tap = p.first_tap + index % p.slab_taps, index /= p.slab_taps;
  i.in = index % w.in_tiles * BN, index /= w.in_tiles;
  i.out = p.first_out + index % w.out_tiles * BM;
  i.share = index / w.out_tiles;
  const int steps = w.box.tiles_n * w.box.tiles_h * w.box.tiles_w, piece = i.share % p.pieces;
  i.begin = int(int64_t(steps) * piece / p.pieces), i.end = int(int64_t(steps) * (piece + 1) / p.pieces);
  return i;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
weight_gradient_kernel(const __grid_constant__ gpu::TensorMap dy_map, const __grid_constant__ gpu::TensorMap x_map,
                       WeightGradient<T> p, Work w) {
  auto& s = gpu::dynamic_shared<Shared<T>>();
  const int tid = int(threadIdx.x), group = tid / 128;
  const int items = w.out_tiles * w.in_tiles * p.slab_taps * p.shares;
  if (tid == 0) {
    for (int i = 0; i < kStages; i++) gpu::mbarrier_init(&s.full[i], 1), gpu::mbarrier_init(&s.empty[i], kConsumerWarps);
    gpu::fence_mbarrier_init();
  }
  __syncthreads();

  int stage = 0, turn = 0;
  auto advance = [&] {
    if (++stage == kStages) stage = 0, turn ^= 1;
  };
  if (group == 0) {
    gpu::give_registers<40>();
    if (tid != 0) return;
    for (int index = int(blockIdx.x); index < items; index += int(gridDim.x)) {
      const Item at = item_of(index, p, w);
      const int dy = at.tap / p.kernel_w - p.padding, dx = at.tap % p.kernel_w - p.padding;
      for (int step = at.begin; step < at.end; step++, advance()) {
        const int n = 2 * (at.share / p.pieces) + step / (w.box.tiles_h * w.box.tiles_w) * w.box.n;
        const int y = step / w.box.tiles_w % w.box.tiles_h * w.box.h, x = step % w.box.tiles_w * w.box.w;
        gpu::mbarrier_wait(&s.empty[stage], turn ^ 1);
        gpu::mbarrier_arrive_expect(&s.full[stage], uint32_t((BM + BN) * BK * sizeof(T)));
        for (int i = 0; i < BM / 64; i++)
          gpu::tma_load_4d(s.dy[stage][i], &dy_map, &s.full[stage], at.out + 64 * i, x, y, n);
        for (int i = 0; i < BN / 64; i++)
          gpu::tma_load_4d(s.x[stage][i], &x_map, &s.full[stage], at.in + 64 * i, x + dx, y + dy, n);
      }
    }
    return;
  }
  gpu::take_registers<232>();
  const int warp = tid / 32 % 4, lane = tid % 32;
  for (int index = int(blockIdx.x); index < items; index += int(gridDim.x)) {
    const Item at = item_of(index, p, w);
    float acc[BN / 2];
    int before = 0;
    for (int step = at.begin; step < at.end; step++, advance()) {
      gpu::mbarrier_wait(&s.full[stage], turn);
      gpu::wgmma_fence();
#pragma unroll
      for (int k = 0; k < BK; k += 16)
        gpu::wgmma<T, BN, true, true>(
            acc, gpu::wgmma_descriptor(&s.dy[stage][group - 1][k * 64], kBoxValues * sizeof(T), 1024),
            gpu::wgmma_descriptor(&s.x[stage][0][k * 64], kBoxValues * sizeof(T), 1024), step > at.begin || k > 0);
      gpu::wgmma_commit();
      gpu::wgmma_wait<1>();  // the step before has been multiplied: its stage is free
      if (step > at.begin && lane == 0) gpu::mbarrier_arrive(&s.empty[before]);
      before = stage;
    }
    gpu::wgmma_wait<0>();
    if (lane == 0) gpu::mbarrier_arrive(&s.empty[before]);
#pragma unroll
    for (int j = 0; j < BN / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int o = at.out + (group - 1) * 64 + 16 * warp + lane / 4 + i / 2 * 8;
        const int c = at.in + 8 * j + lane % 4 * 2 + i % 2, tap = at.tap - p.first_tap;
        if (o < p.first_out + p.outs && c < p.in) store_gradient(p, at.share, o, tap * p.in + c, acc[4 * j + i]);
      }
  }
}

}  // namespace

template <class T> void sum_wgmma(WeightGradient<T> p, Device device) {
  if (p.taps == 1 && p.padding == 0) {  // rows: every item is one row of pixels
    p.width = p.out_width = p.out_height * p.out_width;
    p.height = p.out_height = 1;
  }
  Work w{};
  w.box = gemm::plan_box(2, p.out_height, p.out_width, BK);
  w.out_tiles = int(gemm::ceil_div(p.outs, BM));
  w.in_tiles = int(gemm::ceil_div(p.in, BN));
  const int64_t items = int64_t(w.out_tiles) * w.in_tiles * p.slab_taps * p.shares;
  DF_CHECK(items < (int64_t(1) << 31), "cuda: a weight gradient of %d outputs and %d inputs is too large", p.out, p.in);
  constexpr bool is_bf16 = gpu::detail::IsBf16<T>::value;
  const uint32_t box[] = {64, uint32_t(w.box.w), uint32_t(w.box.h), uint32_t(w.box.n)};
  const auto map = [&](const Rows<const T>& t, int channels, int height, int width) {
    const uint64_t row = uint64_t(t.stride) * sizeof(T);
    const uint64_t extents[] = {uint64_t(channels), uint64_t(width), uint64_t(height), uint64_t(p.items)};
    const uint64_t strides[] = {sizeof(T), row, row * width, row * width * height};
    return gpu::make_tensor_map(t.data, 4, extents, strides, box, is_bf16);
  };
  gpu::launch(weight_gradient_kernel<T>, dim3(unsigned(std::min<int64_t>(items, multiprocessors(device)))), dim3(kThreads),
              sizeof(Shared<T>), stream(device), map(p.dy, p.dy_out, p.out_height, p.out_width),
              map(p.x, p.x_in, p.height, p.width), p, w);
}
template void sum_wgmma(WeightGradient<gpu::bf16>, Device);
template void sum_wgmma(WeightGradient<gpu::f16>, Device);

}  // namespace df::IF_CUDA_NAMESPACE
