// 3×3 convolutions with stride 1 and padding 1 by Winograd's F(TILE×TILE, 3×3): summed over the channels, the ⊙ of the
// transforms is (TILE + 2)² matrix products with TILE² · 9 / (TILE + 2)² times fewer multiplications than the direct
// form. Transforms are computed in fp32; M, the type of what is multiplied, is float or bf16.
#pragma once

/// Where a tile lies: item, and first output row and column (its window begins one before).
struct TilePlace {
  int64_t item, y, x;
};
template <int TILE> DF_INLINE TilePlace place(const WinogradProblem& p, int64_t tile) {
  const int64_t row = tile / p.tiles_x;
  return {row / p.tiles_y, row % p.tiles_y * TILE, tile % p.tiles_x * TILE};
}

/// The pixels of a tile's window.
template <class T, int TILE>
DF_INLINE void window_pixels(const WinogradProblem& p, int64_t tile, const T* (&pixel)[(TILE + 2) * (TILE + 2)]) {
  constexpr int window = TILE + 2;
  const GemmProblem& g = p.conv;
  const T *x = static_cast<const T*>(g.x), *zeros = static_cast<const T*>(g.zeros);
  const TilePlace at = place<TILE>(p, tile);
  for (int i = 0; i < window; i++)
    for (int j = 0; j < window; j++) {
      const int64_t iy = at.y - 1 + i, ix = at.x - 1 + j;
      const bool inside = uint64_t(iy) < uint64_t(g.height) && uint64_t(ix) < uint64_t(g.width);
      pixel[i * window + j] = inside ? x + ((at.item * g.height + iy) * g.width + ix) * g.x_stride : zeros;
    }
}

/// Bᵀ d B of n channels from c on; put(position, values) gets the results.
template <int TILE, class T, class Put>
DF_INLINE void transform_window(const T* const (&pixel)[(TILE + 2) * (TILE + 2)], int64_t c, int n, const Put& put) {
  constexpr int window = TILE + 2;
  Vec t[window * window], d[window], out[window];
#pragma GCC unroll 10
  for (int j = 0; j < window; j++) {
#pragma GCC unroll 10
    for (int i = 0; i < window; i++) d[i] = load_some(pixel[i * window + j] + c, n);
    transform_input<TILE>(d, t + j, window);
  }
#pragma GCC unroll 10
  for (int i = 0; i < window; i++) {
#pragma GCC unroll 10
    for (int j = 0; j < window; j++) d[j] = t[i * window + j];
    transform_input<TILE>(d, out, 1);
#pragma GCC unroll 10
    for (int j = 0; j < window; j++) put(i * window + j, out[j]);
  }
}

/// The windows of the block's tiles [begin, end), transformed, into `v`.
template <class T, class M, int TILE>
void winograd_input(const WinogradProblem* problem, int64_t begin, int64_t end) {
  const WinogradProblem& p = *problem;
  for (int64_t slot = begin; slot < end; slot++) {
    const T* pixel[(TILE + 2) * (TILE + 2)];
    window_pixels<T, TILE>(p, p.first + slot, pixel);
    M* v = static_cast<M*>(p.v) + slot * p.v_stride;
    for_vectors(p.channels, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      transform_window<TILE>(pixel, c, n, [&](int position, Vec value) DF_LAMBDA_INLINE {
        store(v + position * p.v_step + c, value);
      });
    });
  }
}

DF_INLINE Vec weight_vector(const float* p, int) { return load(p); }
DF_INLINE Vec weight_vector(const bf16* p, int half) { return load_half(p, half); }

/// The two rows of U of a pair for `channels` channels of a panel's first `vectors` vectors of columns:
/// u[2 * (TILE + 2)][channel / unit][kPanel][unit], the first dimension u_step apart. weight: channel 0 of tap 0, taps
/// tap_step apart, as packed for the direct product.
template <class T, class M, int TILE>
DF_INLINE void transform_weights(const T* weight, int64_t tap_step, int64_t channels, int vectors, int pair, M* u,
                                 int64_t u_step) {
  constexpr int window = TILE + 2, pairs = TILE / 2, unit = Product<T>::unit;
  for (int64_t c = 0; c < channels; c += unit)
    for (int j = 0; j < vectors; j++) {
      const T* w = weight + (c * kTileVectors + j * unit) * kLanes;
      Vec row[2][unit][kTaps];
#pragma GCC unroll 2
      for (int half = 0; half < unit; half++)
#pragma GCC unroll 3
        for (int x = 0; x < kTaps; x++) {
          Vec tap[kTaps];
#pragma GCC unroll 3
          for (int y = 0; y < kTaps; y++) tap[y] = weight_vector(w + (y * kTaps + x) * tap_step, half);
          transform_weight_pair<TILE>(pair, tap[0], tap[1], tap[2], row[0][half][x], row[1][half][x]);
        }
#pragma GCC unroll 2
      for (int r = 0; r < 2; r++) {
        M* out = u + r * window * u_step;
        const auto put = [&](int position, const Vec (&value)[unit]) DF_LAMBDA_INLINE {
          if constexpr (sizeof(M) == sizeof(float)) {
#pragma GCC unroll 2
            for (int half = 0; half < unit; half++)
              store(out + position * u_step + ((c + half) * kTileVectors + j) * kLanes, value[half]);
          } else {
            store_pairs(out + position * u_step + (c * kTileVectors + j * unit) * kLanes, value[0], value[unit - 1]);
          }
        };
#pragma GCC unroll 5
        for (int p = 0; p <= pairs; p++) {
          Vec first[unit], second[unit];
#pragma GCC unroll 2
          for (int half = 0; half < unit; half++) {
            const Vec(&t)[kTaps] = row[r][half];
            transform_weight_pair<TILE>(p, t[0], t[1], t[2], first[half], second[half]);
          }
          put(p ? 2 * p - 1 : 0, first);
          put(p ? 2 * p : window - 1, second);
        }
      }
    }
}

/// Products of the block's tiles with one panel, at the positions of a pair of rows of the window, into `m`.
template <class T, class M, int TILE>
void winograd_multiply(const WinogradProblem* problem, int64_t panel, int pair, void* transformed) {
  constexpr int window = TILE + 2;
  const WinogradProblem& p = *problem;
  const GemmProblem& g = p.conv;
  const T* weight = static_cast<const T*>(g.weight) + panel * g.taps * g.in * kPanel;
  M* u = static_cast<M*>(transformed);
  TileTarget<M> target;
  target.partial_stride = p.m_stride;
  target.columns = int(smaller<int64_t>(kPanel, g.out - panel * kPanel));
  const int vectors = (target.columns + kLanes - 1) / kLanes;
  const int rows_of_pair[2] = {pair ? 2 * pair - 1 : 0, pair ? 2 * pair : window - 1};
  const M* a[kTileRows];
  for (int64_t channel = 0; channel < g.in; channel += g.block_channels) {
    const int64_t channels = smaller(g.block_channels, g.in - channel);
    transform_weights<T, M, TILE>(weight + channel * kPanel, g.in * kPanel, channels, vectors, pair, u, p.u_step);
    target.resume = channel > 0;
    for (int q = 0; q < 2 * window; q++) {
      const int position = rows_of_pair[q / window] * window + q % window;
      const M *v = static_cast<const M*>(p.v) + position * p.v_step + channel, *b = u + q * p.u_step;
      float* m = p.m + position * p.m_step + panel * kPanel;
      for (int64_t tile = 0; tile < p.count;) {
        const int rows = next_rows(p.count - tile);
        for (int i = 0; i < rows; i++) a[i] = v + (tile + i) * p.v_stride;
        target.partial = m + tile * p.m_stride;
        run_tile<M>(rows, 1, channels / Product<M>::unit, a, &b, target);
        tile += rows;
      }
    }
  }
}

/// The outputs of the block's tiles [begin, end) from `m`, through the epilogue.
template <class T, int TILE> void winograd_output(const WinogradProblem* problem, int64_t begin, int64_t end) {
  constexpr int window = TILE + 2;
  const WinogradProblem& p = *problem;
  const GemmProblem& g = p.conv;
  const Vec scale = set1(g.scale);
  for (int64_t slot = begin; slot < end; slot++) {
    const TilePlace at = place<TILE>(p, p.first + slot);
    const int64_t pixel = (at.item * g.height + at.y) * g.width + at.x;
    const int rows = int(smaller<int64_t>(TILE, g.height - at.y));
    const int columns = int(smaller<int64_t>(TILE, g.width - at.x));
    const float* m = p.m + slot * p.m_stride;
    for_vectors(g.out, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      Vec t[TILE * window], d[window], out[TILE];
#pragma GCC unroll 10
      for (int j = 0; j < window; j++) {
#pragma GCC unroll 10
        for (int i = 0; i < window; i++) d[i] = load(m + (i * window + j) * p.m_step + c);
        transform_output<TILE>(d, t + j, window);
      }
      const Vec bias = g.bias ? load_some(g.bias + c, n) : set1(0);
      for (int i = 0; i < rows; i++) {
#pragma GCC unroll 10
        for (int j = 0; j < window; j++) d[j] = t[i * window + j];
        transform_output<TILE>(d, out, 1);
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

/// Only F(4×4) in float32 is accurate enough for float32 activations; M = bf16 pays where there is an instruction for pairs.
template <class M, int TILE> constexpr WinogradKernels winograd_kernels() {
  WinogradKernels k = {TILE, int(sizeof(M)), {}, {}, {}};
  if constexpr (sizeof(M) == sizeof(float) && TILE == 4) {
    k.input[0] = winograd_input<float, M, TILE>;
    k.multiply[0] = winograd_multiply<float, M, TILE>;
    k.output[0] = winograd_output<float, TILE>;
  }
  if constexpr (sizeof(M) == sizeof(float) || !Product<M>::widens) {
    k.input[1] = winograd_input<bf16, M, TILE>;
    k.multiply[1] = winograd_multiply<bf16, M, TILE>;
    k.output[1] = winograd_output<bf16, TILE>;
  }
  return k;
}
