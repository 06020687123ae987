// The multiply core: a register tile of up to kTileRows rows × one panel, fp32 accumulators that stay in registers over
// all segments of K, and the loop that runs it over the rows of a GemmProblem.
#pragma once

constexpr int kPanel = kTileVectors * kLanes;

/// Where a finished tile goes: to fp32 partial sums, or through the epilogue to `y`.
template <class T> struct TileTarget {
  float* partial = nullptr;  // partial sums, kPanel floats per row when stride is not set otherwise
  int64_t partial_stride = kPanel;
  bool resume = false;       // start from the partial sums
  T* const* y = nullptr;     // a pointer per row, or null
  const T* const* residual = nullptr;
  const float* weight_scale = nullptr;  // factors of the columns, before bias
  const float* bias = nullptr;
  float scale = 1;
  int columns = kPanel;      // columns of this panel that exist
};

/// acc += the first or second elements of `pairs` pairs: widened rows × one half of the panel.
template <int HALF, class T, int ROWS, int VECTORS>
DF_INLINE void multiply_half(int64_t pairs, const float* wide, int64_t stride, const T* panel,
                             Vec (&acc)[ROWS][VECTORS]) {
  for (int64_t k = 0; k < pairs; k++) {
    Vec b[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) b[j] = Product<T>::b(panel + (k * kTileVectors + j) * kLanes * 2, HALF);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
      const Vec a = set1(wide[i * stride + k * 2 + HALF]);
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) acc[i][j] = fma(a, b[j], acc[i][j]);
    }
  }
}

/// acc += rows × panel over `steps` units of K. An int8 panel is left in `widened` as T on the way: beside the multiply
/// that costs little, because other execution units convert.
template <class T, class Stored, int ROWS, int VECTORS>
DF_INLINE void multiply_segment(int64_t steps, const T* const (&row)[ROWS], const Stored* panel, T* widened,
                                Vec (&acc)[ROWS][VECTORS]) {
  typedef Product<T> P;
  if constexpr (!P::widens) {
#pragma GCC unroll 2
    for (int64_t k = 0; k < steps; k++) {
      Vec b[VECTORS];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) {
        const int64_t at = (k * kTileVectors + j) * kLanes * P::unit;
        if constexpr (sizeof(Stored) == sizeof(T)) b[j] = P::b(panel + at);
        else b[j] = P::widen(panel + at, widened + at);
      }
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; i++) {
        const Vec a = P::a(row[i] + k * P::unit);
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) acc[i][j] = P::fma(a, b[j], acc[i][j]);
      }
    }
  } else {
    // No product of pairs: the rows are widened to float piece by piece (they stay in L1), the panel in registers.
    // Widening each broadcast instead costs a third of the speed.
    constexpr int64_t kPiece = 64;
    alignas(64) float wide[ROWS][kPiece * 2];
    for (int64_t first = 0; first < steps; first += kPiece) {
      const int64_t n = smaller(kPiece, steps - first);
      for (int i = 0; i < ROWS; i++) {
        const T* narrow = row[i] + first * 2;
        int64_t e = 0;
        for (; e + kLanes <= n * 2; e += kLanes) store(wide[i] + e, load(narrow + e));
        for (; e < n * 2; e++) {
          const uint32_t bits = uint32_t(narrow[e].bits) << 16;
          wide[i][e] = read<float>(&bits);
        }
      }
      // one half of all pairs after the other: a loop over both at once needs more registers than 16
      multiply_half<0, T, ROWS, VECTORS>(n, wide[0], kPiece * 2, panel + first * kPanel * 2, acc);
      multiply_half<1, T, ROWS, VECTORS>(n, wide[0], kPiece * 2, panel + first * kPanel * 2, acc);
    }
  }
}

template <int ROWS, int VECTORS> DF_INLINE void scale_columns(Vec (&acc)[ROWS][VECTORS], int j, Vec scale) {
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++) acc[i][j] = acc[i][j] * scale;
}

/// The first VECTORS vectors of a panel's columns. a: ROWS row pointers per segment, K contiguous; b: one packed block
/// per segment; `steps` units of K in each.
template <class T, int ROWS, int VECTORS, class Stored = T>
__attribute__((noinline)) void tile(int segments, int64_t steps, const T* const* a, const Stored* const* b,
                                    const TileTarget<T>& t, T* widened = nullptr) {
  Vec acc[ROWS][VECTORS];
  if (t.resume) {
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) acc[i][j] = load(t.partial + i * t.partial_stride + j * kLanes);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) acc[i][j] = set1(0);
  }
  for (int s = 0; s < segments; s++, a += ROWS) {
    const T* row[ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) row[i] = a[i];
    const Stored* panel = b[s];
    multiply_segment<T, Stored, ROWS, VECTORS>(steps, row, panel, widened, acc);
    if constexpr (sizeof(Stored) != sizeof(T)) widened += steps * Product<T>::unit * kPanel;
  }
  if (!t.y) {
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) store(t.partial + i * t.partial_stride + j * kLanes, acc[i][j]);
    return;
  }
  const Vec scale = set1(t.scale);
#pragma GCC unroll 4
  for (int j = 0; j < VECTORS; j++) {
    const int n = t.columns - j * kLanes, c = j * kLanes;
    if (n >= kLanes) {
      if (t.weight_scale) scale_columns(acc, j, load(t.weight_scale + c));
      const Vec bias = t.bias ? load(t.bias + c) : set1(0);
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; i++) {
        Vec v = acc[i][j] + bias;
        if (t.residual) v = v + load(t.residual[i] + c);
        store(t.y[i] + c, v * scale);
      }
    } else if (n > 0) {
      if (t.weight_scale) scale_columns(acc, j, load_n(t.weight_scale + c, n));
      const Vec bias = t.bias ? load_n(t.bias + c, n) : set1(0);
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; i++) {
        Vec v = acc[i][j] + bias;
        if (t.residual) v = v + load_n(t.residual[i] + c, n);
        store_n(t.y[i] + c, v * scale, n);
      }
    }
  }
}

template <class T, int ROWS = kTileRows, int VECTORS = kTileVectors, class Stored = T>
DF_INLINE void run_tile(int rows, int segments, int64_t steps, const T* const* a, const Stored* const* b,
                        const TileTarget<T>& t, T* widened = nullptr) {
  if constexpr (VECTORS > 1) {
    if (t.columns <= (VECTORS - 1) * kLanes)
      return run_tile<T, ROWS, VECTORS - 1, Stored>(rows, segments, steps, a, b, t, widened);
  }
  if constexpr (ROWS > 1) {
    if (rows < ROWS) return run_tile<T, ROWS - 1, VECTORS, Stored>(rows, segments, steps, a, b, t, widened);
  }
  tile<T, ROWS, VECTORS, Stored>(segments, steps, a, b, t, widened);
}

/// Rows of the next tile. The last kTileRows+1 … 2*kTileRows-1 rows become two nearly equal tiles: one of 1 or 2 rows
/// has too few accumulators to cover the latency of the multiply.
DF_INLINE int next_rows(int64_t left) {
  if (left >= 2 * kTileRows || left == kTileRows) return kTileRows;
  return left > kTileRows ? int((left + 1) / 2) : int(left);
}

/// Row pointers of the taps [tap, tap + taps) for the output rows [m, m + rows), `rows` per tap.
template <class T>
DF_INLINE void gather_rows(const GemmProblem& g, int64_t m, int rows, int tap, int taps, int64_t channel, const T** a) {
  const T *x = static_cast<const T*>(g.x) + channel, *zeros = static_cast<const T*>(g.zeros);
  if (g.direct) {
    for (int i = 0; i < rows; i++) a[i] = x + (m + i) * g.x_stride;
    return;
  }
  int64_t ox = m % g.out_width, oy = m / g.out_width % g.out_height, item = m / (g.out_width * g.out_height);
  for (int i = 0; i < rows; i++) {
    const int64_t y0 = oy * g.stride - g.padding, x0 = ox * g.stride - g.padding;
    int r = tap / g.kernel_w, s = tap % g.kernel_w;
    for (int q = 0; q < taps; q++) {
      const int64_t iy = y0 + r, ix = x0 + s;
      const bool inside = uint64_t(iy) < uint64_t(g.height) && uint64_t(ix) < uint64_t(g.width);
      a[q * rows + i] = inside ? x + ((item * g.height + iy) * g.width + ix) * g.x_stride : zeros;
      if (++s == g.kernel_w) s = 0, r++;
    }
    if (++ox == g.out_width) {
      ox = 0;
      if (++oy == g.out_height) oy = 0, item++;
    }
  }
}

/// Stored: T, or int8_t: a K block of the panel is then widened into `widened` once for all rows, by the first tile or
/// before it. (Up to 127 is exact in bf16.)
template <class T, class Stored>
DF_INLINE void multiply_panel(const GemmProblem& g, int64_t begin, int64_t end, int64_t panel, float* partial,
                              T* widened) {
  constexpr int unit = Product<T>::unit;
  constexpr bool int8 = sizeof(Stored) != sizeof(T), tile_widens = int8 && !Product<T>::widens;
  const Stored* weight = static_cast<const Stored*>(g.weight) + panel * g.taps * g.in * kPanel;
  const T* a[kMaxBlockTaps * kTileRows];
  const Stored* stored[kMaxBlockTaps];
  const T* b[kMaxBlockTaps];
  T* y[kTileRows];
  const T* residual[kTileRows];
  for (int tap = 0; tap < g.taps; tap += g.block_taps) {
    const int taps = smaller(g.block_taps, g.taps - tap);
    for (int64_t channel = 0; channel < g.in; channel += g.block_channels) {
      const int64_t channels = smaller(g.block_channels, g.in - channel);
      for (int q = 0; q < taps; q++) {
        stored[q] = weight + ((tap + q) * g.in + channel) * kPanel;
        if constexpr (int8) b[q] = widened + q * channels * kPanel;
        else b[q] = stored[q];
        if constexpr (int8 && !tile_widens)
          for (int64_t i = 0; i < channels * kPanel; i += kLanes)
            store(widened + q * channels * kPanel + i, load(stored[q] + i));
      }
      const bool last = tap + taps == g.taps && channel + channels == g.in;
      TileTarget<T> t;
      t.resume = tap > 0 || channel > 0;
      t.y = last ? y : nullptr;
      t.residual = g.residual ? residual : nullptr;
      t.weight_scale = int8 ? g.weight_scale + panel * kPanel : nullptr;
      t.bias = g.bias ? g.bias + panel * kPanel : nullptr;
      t.scale = g.scale;
      t.columns = int(smaller<int64_t>(kPanel, g.out - panel * kPanel));
      int rows = 0;
      for (int64_t m = begin; m < end; m += rows) {
        rows = next_rows(end - m);
        gather_rows(g, m, rows, tap, taps, channel, a);
        for (int i = 0; i < rows; i++) {
          y[i] = static_cast<T*>(g.y) + (m + i) * g.y_stride + panel * kPanel;
          if (g.residual)
            residual[i] = static_cast<const T*>(g.residual) + (m + i) * g.residual_stride + panel * kPanel;
        }
        t.partial = partial + (m - begin) * kPanel;
        if constexpr (tile_widens) {
          if (m == begin) {
            run_tile<T, kTileRows, kTileVectors, Stored>(rows, taps, channels / unit, a, stored, t, widened);
            continue;
          }
        }
        run_tile<T>(rows, taps, channels / unit, a, b, t);
      }
    }
  }
}

template <class T> void gemm(const GemmProblem* g, int64_t begin, int64_t end, int64_t panel, float* partial) {
  multiply_panel<T, T>(*g, begin, end, panel, partial, nullptr);
}

template <class T>
void gemm_int8(const GemmProblem* g, int64_t begin, int64_t end, int64_t panel, float* partial, void* widened) {
  multiply_panel<T, int8_t>(*g, begin, end, panel, partial, static_cast<T*>(widened));
}
