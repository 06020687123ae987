// Products of 16-bit types with mma.sync (sm_80 and later): operands in a ring of shared-memory stages filled by cp.async,
// the sum over (tap, input channel) cut among blocks where the results alone are too few of them.
#include "cuda/gemm/plan.h"
#include "cuda/gemm/product.cuh"
#include "cuda/gemm/tile.cuh"

namespace df::IF_CUDA_NAMESPACE {
namespace {

// Blocks of one tile meet at a ticket; partial sums lie as [tile][split][value][thread], so that they are read and written
// in whole lines.
struct Split {
  int splits;
  float* partial;
  unsigned* tickets;  // zeros, left zero
};

template <class T, class Shape> struct Shared {
  alignas(128) T a[Shape::stages][Shape::BM * Shape::BK];
  alignas(128) T b[Shape::stages][Shape::BN * Shape::BK];
};

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::threads, 1) product_kernel(Product<T> p, Split split, bool paired) {
  constexpr int BM = Shape::BM, BN = Shape::BN, BK = Shape::BK, MT = Shape::MT, NT = Shape::NT, stages = Shape::stages;
  auto& s = gpu::dynamic_shared<Shared<T, Shape>>();
  const int tid = int(threadIdx.x), lane = tid % 32;
  const int m0 = p.first_row + int(blockIdx.x) * BM, n0 = int(blockIdx.y) * BN;
  const int columns = p.taps * p.in, steps = (columns + BK - 1) / BK;  // of K; p.in is a multiple of 8
  const int begin = int(int64_t(steps) * blockIdx.z / split.splits);
  const int end = int(int64_t(steps) * (blockIdx.z + 1) / split.splits);

  // A thread copies the same chunk of the same rows in every step.
  constexpr int rows_per_pass = Shape::threads / 8, passes_a = BM / rows_per_pass, passes_b = BN / rows_per_pass;
  static_assert(BM % rows_per_pass == 0 && BN % rows_per_pass == 0);
  const int chunk = tid % 8, row0 = tid / 8;
  int64_t from_a[passes_a];  // the value of tap (0, 0) and channel 0; may lie outside of the image
  int y[passes_a], x[passes_a];
#pragma unroll
  for (int i = 0; i < passes_a; i++) {
    const Place at = place_of(p, m0 + row0 + i * rows_per_pass);
    y[i] = at.y, x[i] = at.x;
    from_a[i] = (at.image + int64_t(at.y) * p.width + at.x) * p.x.stride;
  }
  const T* const w = static_cast<const T*>(p.w);
  int k = begin * BK + chunk * 8, tap_y, tap_x, channel;  // of the step that is copied next
  {
    const int tap = k / p.in;
    channel = k - tap * p.in, tap_y = tap / p.kernel_w, tap_x = tap - tap_y * p.kernel_w;
  }
  auto load = [&](int stage) {
    const int64_t offset = (int64_t(tap_y) * p.width + tap_x) * p.x.stride + channel;
#pragma unroll
    for (int i = 0; i < passes_a; i++) {
      const bool inside =
          k < columns && unsigned(y[i] + tap_y) < unsigned(p.height) && unsigned(x[i] + tap_x) < unsigned(p.width);
      gpu::cp_async16(&s.a[stage][swizzled<BK>(row0 + i * rows_per_pass, chunk)],
                      inside ? p.x.data + from_a[i] + offset : p.x.data, inside);
    }
#pragma unroll
    for (int i = 0; i < passes_b; i++) {
      const int n = n0 + row0 + i * rows_per_pass;
      const bool inside = k < columns && n < p.out;
      gpu::cp_async16(&s.b[stage][swizzled<BK>(row0 + i * rows_per_pass, chunk)],
                      inside ? w + int64_t(n) * columns + k : w, inside);
    }
    k += BK, channel += BK;
    while (channel >= p.in) {
      channel -= p.in;
      if (++tap_x == p.kernel_w) tap_x = 0, tap_y++;
    }
  };

  float acc[MT][NT][4] = {};
#pragma unroll
  for (int i = 0; i < stages - 1; i++) {
    if (begin + i < end) load(i);
    gpu::cp_async_commit();
  }
  const int warp_m = tid / 32 / Shape::warps_n * (MT * 16), warp_n = tid / 32 % Shape::warps_n * (NT * 8);
  for (int step = begin, stage = 0; step < end; step++) {
    gpu::cp_async_wait<stages - 2>();
    __syncthreads();  // the stage is filled for all, and all have finished with the stage that is filled next
    if (step + stages - 1 < end) load(stage == 0 ? stages - 1 : stage - 1);
    gpu::cp_async_commit();
#pragma unroll
    for (int kk = 0; kk < BK / 16; kk++) {
      uint32_t a[MT][4], b[NT][2];
#pragma unroll
      for (int i = 0; i < MT; i++)
        gpu::ldmatrix4(a[i], &s.a[stage][swizzled<BK>(warp_m + 16 * i + lane % 16, 2 * kk + lane / 16)]);
#pragma unroll
      for (int j = 0; j < NT; j += 2) {  // two column tiles at once: rows 0..7 and 8..15, low and high half of k
        uint32_t r[4];
        gpu::ldmatrix4(r, &s.b[stage][swizzled<BK>(warp_n + 8 * j + lane % 8 + lane / 16 * 8, 2 * kk + lane / 8 % 2)]);
        b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
      }
      gpu::mma<T>(acc, a, b);
    }
    if (++stage == stages) stage = 0;
  }
  gpu::cp_async_wait<0>();

  const Fragment<Shape> fragment(tid);
  if (split.splits > 1) {
    constexpr int64_t share = BM * BN / 2;  // pairs
    const int64_t tile = int64_t(blockIdx.y) * gridDim.x + blockIdx.x;
    float2* const partial = reinterpret_cast<float2*>(split.partial) + tile * split.splits * share + tid;
    fragment.for_each_pair(acc, [&](int, int, int i, float v0, float v1) {
      partial[blockIdx.z * share + i * Shape::threads] = make_float2(v0, v1);
    });
    GPU_SHARED(unsigned, ticket);
    __syncthreads();
    if (tid == 0) ticket = gpu::take_ticket(split.tickets + tile);
    __syncthreads();
    if (ticket != unsigned(split.splits) - 1) return;
    if (tid == 0) split.tickets[tile] = 0;
    // the last block adds all shares, in their order
    fragment.for_each_pair(acc, [&](int, int, int i, float& v0, float& v1) {
      v0 = v1 = 0;
      for (int z = 0; z < split.splits; z++) {
        const float2 v = partial[z * share + i * Shape::threads];
        v0 += v.x, v1 += v.y;
      }
    });
  }
  fragment.for_each_pair(acc, [&](int row, int column, int, float v0, float v1) {
    const int m = m0 + row, n = n0 + column;
    if (m < p.rows && n < p.out) store_pair(p, paired, m, n, v0, v1);
  });
}

template <class T, class Shape> void run(Product<T> p, int splits, Device device) {
  const int64_t columns = gemm::ceil_div(p.out, Shape::BN), all = gemm::ceil_div(p.rows, Shape::BM);
  DF_CHECK(columns <= 65535, "cuda: a product of %d outputs does not fit a grid", p.out);
  // slabs of rows, so that the partial sums stay small; they are used one after the other
  const int64_t row_bytes = columns * splits * Shape::BM * Shape::BN * int64_t(sizeof(float));
  const int64_t slab = gemm::split_slab(all, splits, row_bytes, kSplitWorkspace);
  const SplitScratch scratch(slab * columns, splits, Shape::BM * Shape::BN, device);
  const Split split{splits, scratch.partial(), scratch.tickets()};
  for (int64_t first = 0; first < all; first += slab) {
    const int64_t rows = std::min(slab, all - first);
    p.first_row = int(first * Shape::BM);
    gpu::launch(product_kernel<T, Shape>, dim3(unsigned(rows), unsigned(columns), unsigned(splits)), dim3(Shape::threads),
                sizeof(Shared<T, Shape>), stream(device), p, split, in_pairs(p));
  }
}

}  // namespace

template <class T> void multiply_mma(const Product<T>& p, int item_rows, Device device) {
  const gemm::ProductPlan plan = gemm::plan_product(p.rows, item_rows, p.out, gemm::ceil_div(int64_t(p.taps) * p.in, 64),
                                                     multiprocessors(device));
  switch (plan.tile) {
    case gemm::ProductTile::Large: return run<T, LargeTile>(p, plan.splits, device);
    case gemm::ProductTile::Middle: return run<T, MiddleTile>(p, plan.splits, device);
    case gemm::ProductTile::Small: return run<T, SmallTile>(p, plan.splits, device);
  }
}
template void multiply_mma(const Product<gpu::bf16>&, int, Device);
template void multiply_mma(const Product<gpu::f16>&, int, Device);

}  // namespace df::IF_CUDA_NAMESPACE
