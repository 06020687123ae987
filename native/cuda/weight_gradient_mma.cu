// Weight gradients of 16-bit types with mma.sync (sm_80 and later). Both operands lie with the channels contiguous, the sum
// runs over pixels: ldmatrix transposes them on the way to the registers.
#include "cuda/gemm/tile.cuh"
#include "cuda/gemm/weight_gradient.cuh"

namespace df::IF_CUDA_NAMESPACE {
namespace {

using Shape = LargeTile;
static_assert(Shape::BM == kGradientTile && Shape::BN == kGradientTile);

template <class T> struct Shared {
  alignas(128) T dy[Shape::stages][Shape::BK * Shape::BM];
  alignas(128) T x[Shape::stages][Shape::BK * Shape::BN];
  GradientPlace places[2][Shape::BK];
};

template <class T> __global__ void __launch_bounds__(Shape::threads, 1) weight_gradient_kernel(WeightGradient<T> p) {
  constexpr int BM = Shape::BM, BN = Shape::BN, BK = Shape::BK, MT = Shape::MT, NT = Shape::NT, stages = Shape::stages;
  auto& s = gpu::dynamic_shared<Shared<T>>();
  const int tid = int(threadIdx.x), lane = tid % 32;
  const int columns = p.slab_taps * p.x_in, share = int(blockIdx.x) % p.shares;
  const int n0 = int(blockIdx.x) / p.shares * BN, o0 = p.first_out + int(blockIdx.y) * BM;
  const GradientRange range = range_of(p, share);
  const int steps = range.end <= range.begin ? 0 : (range.end - range.begin + BK - 1) / BK;

  // A thread copies the same chunk of channels in every step.
  constexpr int chunks = BM / 8, rows_per_pass = Shape::threads / chunks, passes = BK / rows_per_pass;
  const int chunk = tid % chunks, row0 = tid / chunks;
  const int o = o0 + chunk * 8, n = n0 + chunk * 8, tap = p.first_tap + n / p.x_in, channel = n % p.x_in;
  const bool dy_inside = o < p.dy_out, x_inside = n < columns;
  const int tap_y = tap / p.kernel_w, tap_x = tap - tap_y * p.kernel_w;
  auto load = [&](int stage, const GradientPlace* places) {
#pragma unroll
    for (int i = 0; i < passes; i++) {
      const int row = row0 + i * rows_per_pass, at = swizzled<BM>(row, chunk);
      const GradientPlace place = places[row];
      const int y = place.y + tap_y, x = place.x + tap_x;
      const bool has_dy = dy_inside && place.dy >= 0;
      gpu::cp_async16(&s.dy[stage][at], has_dy ? p.dy[place.dy] + o : p.dy.data, has_dy);
      const bool has_x = x_inside && place.dy >= 0 && unsigned(y) < unsigned(p.height) && unsigned(x) < unsigned(p.width);
      gpu::cp_async16(&s.x[stage][at], has_x ? p.x[place.image + int64_t(y) * p.width + x] + channel : p.x.data, has_x);
    }
  };
  auto locate = [&](int step) {  // the places of a step, which is copied one step later
    if (tid < BK) s.places[step & 1][tid] = place_of(p, range, range.begin + step * BK + tid);
  };

  float acc[MT][NT][4] = {};
  locate(0);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < stages - 1; i++) {
    if (i < steps) load(i, s.places[i & 1]);
    gpu::cp_async_commit();
    locate(i + 1);
    __syncthreads();
  }
  const int warp_m = tid / 32 / Shape::warps_n * (MT * 16), warp_n = tid / 32 % Shape::warps_n * (NT * 8);
  for (int step = 0, stage = 0; step < steps; step++) {
    gpu::cp_async_wait<stages - 2>();
    __syncthreads();  // the stage is filled for all, and all have finished with the stage and the places written next
    const int next = step + stages - 1;
    if (next < steps) load(stage == 0 ? stages - 1 : stage - 1, s.places[next & 1]);
    gpu::cp_async_commit();
    locate(next + 1);
#pragma unroll
    for (int k = 0; k < BK; k += 16) {
      uint32_t a[MT][4], b[NT][2];
#pragma unroll
      for (int i = 0; i < MT; i++)  // k 0..7 and 8..15 of outputs 0..7 and 8..15
        gpu::ldmatrix4_transposed(
            a[i], &s.dy[stage][swizzled<BM>(k + lane % 8 + lane / 16 * 8, warp_m / 8 + 2 * i + lane / 8 % 2)]);
#pragma unroll
      for (int j = 0; j < NT; j += 2) {
        uint32_t r[4];
        gpu::ldmatrix4_transposed(r, &s.x[stage][swizzled<BN>(k + lane % 16, warp_n / 8 + j + lane / 16)]);
        b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
      }
      gpu::mma<T>(acc, a, b);
    }
    if (++stage == stages) stage = 0;
  }
  gpu::cp_async_wait<0>();

  Fragment<Shape>(tid).for_each_pair(acc, [&](int row, int column, int, float v0, float v1) {
    const int output = o0 + row, at = n0 + column;
    if (output >= p.first_out + p.outs || at >= columns) return;
    const int of_tap = at / p.x_in, in = at - of_tap * p.x_in;  // x_in is even: both lie in one tap
    if (in < p.in) store_gradient(p, share, output, of_tap * p.in + in, v0);
    if (in + 1 < p.in) store_gradient(p, share, output, of_tap * p.in + in + 1, v1);
  });
}

}  // namespace

template <class T> void sum_mma(const WeightGradient<T>& p, gpu::Stream s) {
  const int64_t columns = (int64_t(p.slab_taps) * p.x_in + Shape::BN - 1) / Shape::BN;
  gpu::launch(weight_gradient_kernel<T>,
              dim3(blocks_for(columns * p.shares, 1), unsigned((p.outs + Shape::BM - 1) / Shape::BM)), dim3(Shape::threads),
              sizeof(Shared<T>), s, p);
}
template void sum_mma(const WeightGradient<gpu::bf16>&, gpu::Stream);
template void sum_mma(const WeightGradient<gpu::f16>&, gpu::Stream);

}  // namespace df::IF_CUDA_NAMESPACE
