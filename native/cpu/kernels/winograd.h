// Winograd's F(4×4, 3×3) for 3×3 convolutions with stride 1 and padding 1 (Lavin & Gray 2016, section 4): a tile of 4×4
// outputs is Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A of its 6×6 window d of inputs and the 3×3 weights g; summed over the
// channels, the ⊙ is 36 matrix products with a quarter of the multiplications of the direct form. All of it in fp32.
// Interpolation points 0, ±5/8, ±3/2, ∞: the rounding error is 2.2 times smaller than with the usual 0, ±1, ±2, ∞, the
// ± pairs share their even and odd parts, and the entries of A and B are exact in fp32.
#pragma once

constexpr int kWindow = 6, kTile = 4;  // inputs and outputs of one dimension
constexpr int kPositions = kWindow * kWindow;
constexpr double kA = 0.625, kB = 1.5;
constexpr double kA2 = kA * kA, kB2 = kB * kB;

/// Bᵀ d along one dimension; results `step` apart.
DF_INLINE void transform_input(const Vec (&d)[kWindow], Vec* out, int step) {
  const Vec a = set1(kA), b = set1(kB), minus_a = set1(-kA), minus_b = set1(-kB);
  const Vec minus_a2 = set1(-kA2), minus_b2 = set1(-kB2), product = set1(kA2 * kB2), minus_sum = set1(-(kA2 + kB2));
  const Vec even_a = fma(minus_b2, d[2], d[4]), odd_a = fma(minus_b2, d[1], d[3]);
  const Vec even_b = fma(minus_a2, d[2], d[4]), odd_b = fma(minus_a2, d[1], d[3]);
  out[0] = fma(product, d[0], fma(minus_sum, d[2], d[4]));
  out[step] = fma(a, odd_a, even_a);
  out[2 * step] = fma(minus_a, odd_a, even_a);
  out[3 * step] = fma(b, odd_b, even_b);
  out[4 * step] = fma(minus_b, odd_b, even_b);
  out[5 * step] = fma(product, d[1], fma(minus_sum, d[3], d[5]));
}

/// Aᵀ m along one dimension; results `step` apart.
DF_INLINE void transform_output(const Vec (&m)[kWindow], Vec* out, int step) {
  const Vec even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  out[0] = m[0] + (even_a + even_b);
  out[step] = fma(set1(kB), odd_b, set1(kA) * odd_a);
  out[2 * step] = fma(set1(kB2), even_b, set1(kA2) * even_a);
  out[3 * step] = fma(set1(kB2 * kB), odd_b, fma(set1(kA2 * kA), odd_a, m[5]));
}

/// Where a tile lies: item, and first output row and column (its window begins one before).
struct TilePlace {
  int64_t item, y, x;
};
DF_INLINE TilePlace place(const WinogradProblem& p, int64_t tile) {
  const int64_t row = tile / p.tiles_x;
  return {row / p.tiles_y, row % p.tiles_y * kTile, tile % p.tiles_x * kTile};
}

/// The windows of the block's tiles [begin, end), transformed, into `v`.
template <class T> void winograd_input(const WinogradProblem* problem, int64_t begin, int64_t end) {
  const WinogradProblem& p = *problem;
  const GemmProblem& g = p.conv;
  const T *x = static_cast<const T*>(g.x), *zeros = static_cast<const T*>(g.zeros);
  for (int64_t slot = begin; slot < end; slot++) {
    const TilePlace at = place(p, p.first + slot);
    const T* pixel[kPositions];
    for (int i = 0; i < kWindow; i++)
      for (int j = 0; j < kWindow; j++) {
        const int64_t iy = at.y - 1 + i, ix = at.x - 1 + j;
        const bool inside = uint64_t(iy) < uint64_t(g.height) && uint64_t(ix) < uint64_t(g.width);
        pixel[i * kWindow + j] = inside ? x + ((at.item * g.height + iy) * g.width + ix) * g.x_stride : zeros;
      }
    float* v = p.v + slot * p.v_stride;
    for_vectors(p.channels, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      Vec t[kPositions], d[kWindow], out[kWindow];
#pragma GCC unroll 6
      for (int j = 0; j < kWindow; j++) {
#pragma GCC unroll 6
        for (int i = 0; i < kWindow; i++) d[i] = load_some(pixel[i * kWindow + j] + c, n);
        transform_input(d, t + j, kWindow);
      }
#pragma GCC unroll 6
      for (int i = 0; i < kWindow; i++) {
#pragma GCC unroll 6
        for (int j = 0; j < kWindow; j++) d[j] = t[i * kWindow + j];
        transform_input(d, out, 1);
#pragma GCC unroll 6
        for (int j = 0; j < kWindow; j++) store(v + (i * kWindow + j) * p.v_step + c, out[j]);
      }
    });
  }
}

// Rows of G: (1, q, q²) / Π (q - other points), and (0, 0, 1) for ∞.
constexpr float kG0 = 1 / (kA2 * kB2);
constexpr double kDivisorA = 2 * kA2 * (kA2 - kB2), kDivisorB = 2 * kB2 * (kB2 - kA2);
constexpr float kG[kWindow][3] = {{kG0, 0, 0},
                                  {float(1 / kDivisorA), float(kA / kDivisorA), float(kA2 / kDivisorA)},
                                  {float(1 / kDivisorA), float(-kA / kDivisorA), float(kA2 / kDivisorA)},
                                  {float(1 / kDivisorB), float(kB / kDivisorB), float(kB2 / kDivisorB)},
                                  {float(1 / kDivisorB), float(-kB / kDivisorB), float(kB2 / kDivisorB)},
                                  {0, 0, 1}};

DF_INLINE Vec weight_vector(const float* p, int) { return load(p); }
DF_INLINE Vec weight_vector(const bf16* p, int half) { return load_half(p, half); }

/// One row of U = (G g) Gᵀ from one row of G g, results u_step apart.
DF_INLINE void store_weight_row(const Vec (&t)[3], float* out, int64_t u_step) {
  store(out, t[0] * set1(kG[0][0]));
#pragma GCC unroll 2
  for (int q = 1; q < 5; q += 2) {
    const Vec even = fma(set1(kG[q][2]), t[2], set1(kG[q][0]) * t[0]);
    store(out + q * u_step, fma(set1(kG[q][1]), t[1], even));
    store(out + (q + 1) * u_step, fma(set1(kG[q + 1][1]), t[1], even));
  }
  store(out + 5 * u_step, t[2]);
}

// The rows of U that are made together: 0 and ∞, and the points ±q, which share their even and odd parts.
constexpr int kPairRows[3][2] = {{0, 5}, {1, 2}, {3, 4}};

/// Two rows of U for `channels` channels of a panel's first `vectors` vectors of columns: u[12][channel][kPanel], the
/// twelve u_step apart. weight: channel 0 of tap 0, taps tap_step apart, as packed for the direct product.
template <class T>
DF_INLINE void transform_weights(const T* weight, int64_t tap_step, int64_t channels, int vectors, int pair, float* u,
                                 int64_t u_step) {
  constexpr int unit = Product<T>::unit;
  const float* g = kG[kPairRows[pair][0]];
  const Vec g0 = set1(g[0]), g1 = set1(g[1]), minus_g1 = set1(-g[1]), g2 = set1(g[2]);
  for (int64_t c = 0; c < channels; c += unit)
    for (int j = 0; j < vectors; j++) {
      const T* w = weight + (c * kTileVectors + j * unit) * kLanes;
#pragma GCC unroll 2
      for (int half = 0; half < unit; half++) {
        Vec first[3], second[3];
#pragma GCC unroll 3
        for (int x = 0; x < 3; x++) {
          const Vec top = weight_vector(w + x * tap_step, half), bottom = weight_vector(w + (6 + x) * tap_step, half);
          if (pair == 0) {
            first[x] = g0 * top;
            second[x] = bottom;
          } else {
            const Vec middle = weight_vector(w + (3 + x) * tap_step, half), even = fma(g2, bottom, g0 * top);
            first[x] = fma(g1, middle, even);
            second[x] = fma(minus_g1, middle, even);
          }
        }
        float* out = u + ((c + half) * kTileVectors + j) * kLanes;
        store_weight_row(first, out, u_step);
        store_weight_row(second, out + kWindow * u_step, u_step);
      }
    }
}

/// Products of the block's tiles with one panel, at the positions of a pair of rows of the window, into `m`.
template <class T> void winograd_multiply(const WinogradProblem* problem, int64_t panel, int pair, float* u) {
  const WinogradProblem& p = *problem;
  const GemmProblem& g = p.conv;
  const T* weight = static_cast<const T*>(g.weight) + panel * g.taps * g.in * kPanel;
  TileTarget<float> target;
  target.partial_stride = p.m_stride;
  target.columns = int(smaller<int64_t>(kPanel, g.out - panel * kPanel));
  const int vectors = (target.columns + kLanes - 1) / kLanes;
  const float* a[kTileRows];
  for (int64_t channel = 0; channel < g.in; channel += g.block_channels) {
    const int64_t channels = smaller(g.block_channels, g.in - channel);
    transform_weights(weight + channel * kPanel, g.in * kPanel, channels, vectors, pair, u, p.u_step);
    target.resume = channel > 0;
    for (int q = 0; q < 2 * kWindow; q++) {
      const int position = kPairRows[pair][q / kWindow] * kWindow + q % kWindow;
      const float *v = p.v + position * p.v_step + channel, *b = u + q * p.u_step;
      float* m = p.m + position * p.m_step + panel * kPanel;
      for (int64_t tile = 0; tile < p.count;) {
        const int rows = next_rows(p.count - tile);
        for (int i = 0; i < rows; i++) a[i] = v + (tile + i) * p.v_stride;
        target.partial = m + tile * p.m_stride;
        run_tile<float>(rows, 1, channels, a, &b, target);
        tile += rows;
      }
    }
  }
}

/// The outputs of the block's tiles [begin, end) from `m`, through the epilogue.
template <class T> void winograd_output(const WinogradProblem* problem, int64_t begin, int64_t end) {
  const WinogradProblem& p = *problem;
  const GemmProblem& g = p.conv;
  const Vec scale = set1(g.scale);
  for (int64_t slot = begin; slot < end; slot++) {
    const TilePlace at = place(p, p.first + slot);
    const int64_t pixel = (at.item * g.height + at.y) * g.width + at.x;
    const int rows = int(smaller<int64_t>(kTile, g.height - at.y));
    const int columns = int(smaller<int64_t>(kTile, g.width - at.x));
    const float* m = p.m + slot * p.m_stride;
    for_vectors(g.out, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      Vec t[kTile * kWindow], d[kWindow], out[kTile];
#pragma GCC unroll 6
      for (int j = 0; j < kWindow; j++) {
#pragma GCC unroll 6
        for (int i = 0; i < kWindow; i++) d[i] = load(m + (i * kWindow + j) * p.m_step + c);
        transform_output(d, t + j, kWindow);
      }
      const Vec bias = g.bias ? load_some(g.bias + c, n) : set1(0);
      for (int i = 0; i < rows; i++) {
#pragma GCC unroll 6
        for (int j = 0; j < kWindow; j++) d[j] = t[i * kWindow + j];
        transform_output(d, out, 1);
        for (int j = 0; j < columns; j++) {
          const int64_t row = pixel + i * g.width + j;
          Vec v = out[j] + bias;
          if (g.residual) v = v + load_some(static_cast<const T*>(g.residual) + row * g.residual_stride + c, n);
          store_some(static_cast<T*>(g.y) + row * g.y_stride + c, v * scale, n);
        }
      }
    });
  }
}
