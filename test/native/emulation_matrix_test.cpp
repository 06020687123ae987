// ldmatrix, mma and wgmma of the emulation: fragments and operand layouts, against products in float64.
#include <cmath>

#include "emulation_case.h"
#include "tensors.h"

namespace df::test {
namespace {

// ---- ldmatrix. Lane l of result m holds row l / 4, columns 2 (l % 4) and the next, of tile m.
struct Tiles {
  alignas(128) uint16_t x[32][8];  // row r of tile m is row 8 m + r
};
void load_matrices(int* out, bool transposed) {
  Tiles& s = gpu::dynamic_shared<Tiles>();
  for (int c = 0; c < 8; ++c) s.x[threadIdx.x][c] = uint16_t(100 * threadIdx.x + c);
  __syncwarp();
  uint32_t r[4];
  if (transposed) gpu::ldmatrix4_transposed(r, s.x[threadIdx.x]);
  else gpu::ldmatrix4(r, s.x[threadIdx.x]);
  for (int m = 0; m < 4; ++m)
    for (int h = 0; h < 2; ++h) out[8 * threadIdx.x + 2 * m + h] = int(r[m] >> 16 * h & 0xffff);
}
int loaded(int i, bool transposed) {
  const int lane = i / 8, m = i % 8 / 2, row = lane / 4, column = lane % 4 * 2 + i % 2;
  return transposed ? 100 * (8 * m + column) + row : 100 * (8 * m + row) + column;
}
// Rows of 128 bytes: all tiles' rows in one column of banks, or spread by the swizzle.
struct Rows128 {
  alignas(1024) uint16_t x[32][64];
};
void load_conflicting(int* out, bool swizzle) {
  Rows128& s = gpu::dynamic_shared<Rows128>();
  uint32_t r[4];
  gpu::ldmatrix4(r, &s.x[threadIdx.x][swizzle ? threadIdx.x % 8 * 8 : 0]);
  out[threadIdx.x] = 0;
}

// ---- products of random 16-bit values
std::vector<uint16_t> random_bits(const char* name, size_t n, bool bf16) {
  Random random(name);
  std::vector<uint16_t> v(n);
  for (uint16_t& x : v) {
    const float f = float(random.uniform(-1, 1));
    x = bf16 ? gpu::from_float<gpu::bf16>(f).bits : gpu::from_float<gpu::f16>(f).bits;
  }
  return v;
}
double value(uint16_t bits, bool bf16) {
  return bf16 ? gpu::to_float(gpu::bf16{bits}) : gpu::to_float(gpu::f16{bits});
}

// c (m, n) += a (m, k) b (n, k)ᵀ in float32, k products one after the other: each rounded twice.
void check_product(const char* schedule, const std::vector<float>& c, double initial, const std::vector<uint16_t>& a,
                   const std::vector<uint16_t>& b, int m, int n, int k, bool a_columns, bool b_columns, bool bf16) {
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++) {
      double sum = initial, size = std::abs(initial);
      for (int l = 0; l < k; l++) {
        const double v = value(a[size_t(a_columns ? l * m + i : i * k + l)], bf16) *
                         value(b[size_t(b_columns ? l * n + j : j * k + l)], bf16);
        sum += v;
        size += std::abs(v);
      }
      const double got = c[size_t(i * n + j)], error = 2 * k * 0x1p-24 * size;
      if (!(std::abs(got - sum) <= error))
        fail_case("%s: (%d, %d) is %.9g, expected %.9g ± %.2g", schedule, i, j, got, sum, error);
    }
}

// a (32, 16), b (24, 16): a warp tile of 2 x 3.
template <class T> void multiply_tile(float* out, const uint16_t* a, const uint16_t* b) {
  const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4 * 2;
  const auto pair = [](const uint16_t* p) { return uint32_t(p[0]) | uint32_t(p[1]) << 16; };
  uint32_t ra[2][4], rb[3][2];
  float c[2][3][4];
  for (int i = 0; i < 2; ++i)
    for (int r = 0; r < 4; ++r) ra[i][r] = pair(a + (16 * i + g + r % 2 * 8) * 16 + t + r / 2 * 8);
  for (int j = 0; j < 3; ++j)
    for (int r = 0; r < 2; ++r) rb[j][r] = pair(b + (8 * j + g) * 16 + t + r * 8);
  for (auto& i : c)
    for (auto& j : i)
      for (float& v : j) v = 0.25f;
  gpu::mma<T>(c, ra, rb);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j)
      for (int r = 0; r < 4; ++r) out[(16 * i + g + r / 2 * 8) * 24 + 8 * j + t + r % 2] = c[i][j][r];
}

// ---- wgmma. Layout of an operand: K-major (rows of 64 k), or MN-major (rows of 64 mn for one k).
constexpr int kDepth = 64;

template <class T, int N> struct Operands {
  alignas(1024) T a[64 * kDepth];
  alignas(1024) T b[N * kDepth];
  uint64_t bar;
};

// d (64, N) = a b over 64 of k, both operands brought by TMA, a also from registers; half of k in each of two groups.
template <class T, int N, bool Registers, bool AMn, bool BMn>
void multiply_group(float* out, gpu::TensorMap a_map, gpu::TensorMap b_map, const uint16_t* a) {
  auto& s = gpu::dynamic_shared<Operands<T, N>>();
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(&s.bar, 1);
    gpu::fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    gpu::mbarrier_arrive_expect(&s.bar, uint32_t((64 + N) * kDepth * 2));
    gpu::tma_load_2d(s.a, &a_map, &s.bar, 0, 0);
    for (int n = 0; n < (BMn ? N : 64); n += 64) gpu::tma_load_2d(s.b + n * kDepth, &b_map, &s.bar, n, 0);
  }
  gpu::mbarrier_wait(&s.bar, 0);
  float d[N / 2];
  for (int k = 0; k < kDepth / 16; ++k) {
    if (k % 2 == 0) gpu::wgmma_fence();
    const uint64_t b = BMn ? gpu::wgmma_descriptor(s.b + k * 16 * 64, 64 * kDepth * 2, 1024)
                           : gpu::wgmma_descriptor(s.b + k * 16, 16, 1024);
    if constexpr (Registers) {
      uint32_t r[4];
      for (int i = 0; i < 4; ++i)
        std::memcpy(&r[i], a + (16 * warp + lane / 4 + i % 2 * 8) * kDepth + 16 * k + i / 2 * 8 + lane % 4 * 2, 4);
      gpu::wgmma<T, N, BMn>(d, r, b, k > 0);
      gpu::wgmma_commit();
      gpu::wgmma_wait<0>();  // before r changes
      if (k + 1 < kDepth / 16) gpu::wgmma_fence();
    } else {
      const uint64_t da = AMn ? gpu::wgmma_descriptor(s.a + k * 16 * 64, 64 * kDepth * 2, 1024)
                              : gpu::wgmma_descriptor(s.a + k * 16, 16, 1024);
      gpu::wgmma<T, N, AMn, BMn>(d, da, b, k > 0);
      if (k % 2) gpu::wgmma_commit();
    }
  }
  gpu::wgmma_wait<0>();
  for (int j = 0; j < N / 8; ++j)
    for (int r = 0; r < 4; ++r)
      out[(16 * warp + lane / 4 + r / 2 * 8) * N + 8 * j + lane % 4 * 2 + r % 2] = d[4 * j + r];
}

template <class T, int N, bool Registers, bool AMn, bool BMn> void add_wgmma(Suite& suite) {
  constexpr bool bf16 = std::is_same_v<T, gpu::bf16>;
  suite.add(format("emulation wgmma %s n=%d a=%s b=%s", bf16 ? "bf16" : "f16", N,
                   Registers ? "registers" : AMn ? "mn-major" : "k-major", BMn ? "mn-major" : "k-major"), [] {
    const auto a = random_bits("a", 64 * kDepth, bf16), b = random_bits("b", N * kDepth, bf16);
    alignas(16) static uint16_t a_memory[64 * kDepth], b_memory[N * kDepth];
    std::copy(a.begin(), a.end(), a_memory);
    std::copy(b.begin(), b.end(), b_memory);
    const uint64_t ae[] = {64, 64}, as[] = {2, 128}, be[] = {BMn ? N : kDepth, BMn ? kDepth : N}, bs[] = {2, 2 * be[0]};
    const uint32_t abox[] = {64, 64}, bbox[] = {64, BMn ? kDepth : N};
    const gpu::TensorMap am = gpu::make_tensor_map(a_memory, 2, ae, as, abox, bf16),
                         bm = gpu::make_tensor_map(b_memory, 2, be, bs, bbox, bf16);
    in_every_schedule([&](const EmulationSchedule& s) {
      const auto c = run_kernel(multiply_group<T, N, Registers, AMn, BMn>, dim3(1), dim3(128), sizeof(Operands<T, N>),
                                64 * N, am, bm, static_cast<const uint16_t*>(a_memory));
      check_product(s.name, c, 0, a, b, 64, N, kDepth, AMn, BMn, bf16);
    });
  });
}

template <class T> void add_mma(Suite& suite) {
  constexpr bool bf16 = std::is_same_v<T, gpu::bf16>;
  suite.add(format("emulation mma %s", bf16 ? "bf16" : "f16"), [] {
    const auto a = random_bits("a", 32 * 16, bf16), b = random_bits("b", 24 * 16, bf16);
    in_every_schedule([&](const EmulationSchedule& s) {
      const auto c = run_kernel(multiply_tile<T>, dim3(1), dim3(32), 0, 32 * 24, a.data(), b.data());
      check_product(s.name, c, 0.25, a, b, 32, 24, 16, false, false, bf16);
    });
  });
}

const Registration matrices([](Suite& suite) {
  for (bool transposed : {false, true})
    add_kernel_case<int>(suite, transposed ? "ldmatrix transposed" : "ldmatrix", load_matrices, dim3(1), dim3(32),
                         sizeof(Tiles), 256, [=](int i) { return loaded(i, transposed); }, transposed);
  suite.add("emulation ldmatrix conflicts", [] {
    for (bool swizzle : {true, false}) {
      emu::statistics() = {};
      run_kernel(load_conflicting, dim3(1), dim3(32), sizeof(Rows128), 32, swizzle);
      CHECK(emu::statistics().ldmatrix == 4);
      CHECK(emu::statistics().ldmatrix_conflicts == (swizzle ? 0 : 4 * 7));  // eight rows in one column of banks
    }
  });
  add_mma<gpu::bf16>(suite);
  add_mma<gpu::f16>(suite);
  add_wgmma<gpu::bf16, 128, false, false, false>(suite);
  add_wgmma<gpu::bf16, 128, false, false, true>(suite);
  add_wgmma<gpu::bf16, 128, false, true, false>(suite);
  add_wgmma<gpu::bf16, 128, false, true, true>(suite);
  add_wgmma<gpu::bf16, 128, true, false, false>(suite);
  add_wgmma<gpu::bf16, 128, true, false, true>(suite);
  add_wgmma<gpu::f16, 64, false, false, false>(suite);
  add_wgmma<gpu::f16, 192, false, true, true>(suite);
  add_wgmma<gpu::bf16, 160, false, false, false>(suite);
  add_wgmma<gpu::bf16, 176, false, false, false>(suite);
  add_wgmma<gpu::bf16, 256, false, false, true>(suite);
});

}  // namespace
}  // namespace df::test
