// The weight gradient of 3×3 convolutions by the adjoint of Winograd's F(TILE×TILE, 3×3): from Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A
// follows dg = Gᵀ[Σ (Bᵀ d B) ⊙ (A dY Aᵀ)]G, the sum over tiles being (TILE + 2)² matrix products in fp32.
// Error for normal data, two items of 64×64 pixels: F(4×4) 2.0e-6, F(8×8) 2.5e-5; of the direct sum 1.6e-6 in float32 and
// 1.0e-6 with bfloat16 x and dy.
#pragma once

constexpr int kGroupOutputs = kGradientGroup * kTileRows;
static_assert(kGroupOutputs % kLanes == 0, "a vector of outputs lies in one group");
/// Tiles of one K block: its v of a panel stays in L1 over the register tiles.
constexpr int64_t kBlockTiles = 96;

template <class T, int TILE>
void winograd_gradient_input(const WinogradGradientProblem* problem, int64_t begin, int64_t end) {
  const WinogradGradientProblem& g = *problem;
  for (int64_t slot = begin; slot < end; slot++) {
    const T* pixel[(TILE + 2) * (TILE + 2)];
    window_pixels<T, TILE>(*g.block, g.block->first + slot, pixel);
    for_vectors(g.block->channels, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      float* v = g.v + c / kPanel * g.v_panel + slot * kPanel + c % kPanel;
      transform_window<TILE>(pixel, c, n, [&](int position, Vec value) DF_LAMBDA_INLINE {
        store(v + position * g.v_step, value);
      });
    });
  }
}

template <class T, int TILE>
void winograd_gradient_output(const WinogradGradientProblem* problem, int64_t begin, int64_t end) {
  constexpr int window = TILE + 2;
  const WinogradGradientProblem& g = *problem;
  const GemmProblem& conv = g.block->conv;
  const T *dy = static_cast<const T*>(g.dy), *zeros = static_cast<const T*>(conv.zeros);
  for (int64_t slot = begin; slot < end; slot++) {
    const TilePlace at = place<TILE>(*g.block, g.block->first + slot);
    const T* pixel[TILE * TILE];
    for (int i = 0; i < TILE; i++)
      for (int j = 0; j < TILE; j++) {
        const bool inside = at.y + i < conv.height && at.x + j < conv.width;
        pixel[i * TILE + j] =
            inside ? dy + ((at.item * conv.height + at.y + i) * conv.width + at.x + j) * g.dy_stride : zeros;
      }
    for_vectors(conv.out, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      float* d = g.d + c / kGroupOutputs * g.d_group + slot * kGroupOutputs + c % kGroupOutputs;
      Vec t[window * TILE], y[TILE], out[window];
#pragma GCC unroll 10
      for (int j = 0; j < TILE; j++) {
#pragma GCC unroll 10
        for (int i = 0; i < TILE; i++) y[i] = load_some(pixel[i * TILE + j] + c, n);
        transform_output_gradient<TILE>(y, t + j, TILE);
      }
#pragma GCC unroll 10
      for (int i = 0; i < window; i++) {
#pragma GCC unroll 10
        for (int j = 0; j < TILE; j++) y[j] = t[i * TILE + j];
        transform_output_gradient<TILE>(y, out, 1);
#pragma GCC unroll 10
        for (int j = 0; j < window; j++) store(d + (i * window + j) * g.d_step, out[j]);
      }
    });
  }
}

/// Where the sums of a register tile go: [tap][kTileValues].
struct WeightSums {
  float* partial;
  bool resume, complete;       // as of a step
  const PairFold* fold;
  int64_t offset;              // of the tile in the slots
  float scale;
  float* dw;                   // of the tile's first weight
  int64_t in;
  int rows, columns;           // of dw
};

/// The products at the window's pair of rows `pair` of a register tile, [2 * (TILE + 2)] of them `step` apart, transformed
/// and added to its sums; these are complete after the last pair.
template <int TILE> void add_weight_sums(int pair, const float* products, int64_t step, const WeightSums& t) {
  constexpr int window = TILE + 2;
  constexpr const auto& c = Winograd<TILE>::c;
  const bool resume = t.resume || pair > 0, complete = t.complete && pair == TILE / 2;
  for (int i = 0; i < t.rows; i++)
    for (int j = 0; j < t.columns; j += kLanes) {
      const float* p = products + i * kPanel + j;
      Vec first[window], second[window], a[kTaps], b[kTaps], sum[kTaps * kTaps];
#pragma GCC unroll 10
      for (int k = 0; k < window; k++) {
        first[k] = load(p + k * step);
        second[k] = load(p + (window + k) * step);
        if (pair == 0) continue;
        const Vec difference = first[k] - second[k];
        first[k] = first[k] + second[k];
        second[k] = difference;
      }
      transform_weight_gradient<TILE>(first, a);
      transform_weight_gradient<TILE>(second, b);
      const int64_t at = i * kPanel + j;
#pragma GCC unroll 9
      for (int tap = 0; tap < kTaps * kTaps; tap++)
        sum[tap] = resume ? load(t.partial + tap * kTileValues + at) : set1(0);
#pragma GCC unroll 3
      for (int x = 0; x < kTaps; x++) {
        sum[x] = sum[x] + a[x];
        if (pair == 0) {
          sum[2 * kTaps + x] = sum[2 * kTaps + x] + b[x];
        } else {
          sum[kTaps + x] = fma(set1(c.point[pair - 1]), b[x], sum[kTaps + x]);
          sum[2 * kTaps + x] = fma(set1(c.square[pair - 1]), a[x], sum[2 * kTaps + x]);
        }
      }
      if (!complete) {
#pragma GCC unroll 9
        for (int tap = 0; tap < kTaps * kTaps; tap++) store(t.partial + tap * kTileValues + at, sum[tap]);
        continue;
      }
      const int n = smaller(kLanes, t.columns - j);
#pragma GCC unroll 9
      for (int tap = 0; tap < kTaps * kTaps; tap++) {
        Vec v = rounded_product(sum[tap], set1(t.scale));
        const int64_t place = t.offset + tap * kTileValues + at;
        for (int f = 0; f < t.fold->count; f++) v = load(t.fold->left[f] + place) + v;
        if (t.fold->to) {
          store(t.fold->to + place, v);
        } else {
          float* dw = t.dw + (i * kTaps * kTaps + tap) * t.in + j;
          store_some(dw, load_some(dw, n) + v, n);
        }
      }
    }
}

template <int TILE>
void winograd_gradient_multiply(const WinogradGradientProblem* problem, const WinogradGradientStep* step, int64_t panel,
                                int64_t begin, int64_t end, float* slots, float* products) {
  constexpr int window = TILE + 2, pairs = TILE / 2, taps = kTaps * kTaps;
  const WinogradGradientProblem& g = *problem;
  const WinogradGradientStep& s = *step;
  const GemmProblem& conv = g.block->conv;
  const int64_t blocks = end - begin, slot_values = blocks * taps * kTileValues, position_step = blocks * kTileValues;
  const PairFold fold =
      fold_of(s.pair, s.pairs, [&](int level) DF_LAMBDA_INLINE { return slots + level * slot_values; });
  float* partial = slots + __builtin_popcountll(uint64_t(s.pair)) * slot_values;
  const int columns = int(smaller<int64_t>(kPanel, g.block->channels - panel * kPanel));
  const int64_t tiles = s.end - s.begin, cuts = (tiles + kBlockTiles - 1) / kBlockTiles, most = (tiles + cuts - 1) / cuts;
  for (int pair = 0; pair <= pairs; pair++) {
    const int rows_of_pair[2] = {pair ? 2 * pair - 1 : 0, pair ? 2 * pair : window - 1};
    for (int q = 0; q < 2 * window; q++) {
      const int position = rows_of_pair[q / window] * window + q % window;
      for (int64_t tile = s.begin; tile < s.end; tile += most) {
        const float* v = g.v + panel * g.v_panel + position * g.v_step + tile * kPanel;
        GradientTarget t = {};
        t.resume = tile > s.begin;
        t.columns = columns;
        for (int64_t block = 0; block < blocks; block++) {
          const int64_t b = begin + block;
          const float* d = g.d + b / kGradientGroup * g.d_group + position * g.d_step + tile * kGroupOutputs +
                           b % kGradientGroup * kTileRows;
          t.partial = products + q * position_step + block * kTileValues;
          run_gradient_tile<float>(1, smaller(most, s.end - tile), d, kGroupOutputs, 0, v, kPanel, 0, t);
        }
      }
    }
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t output = (begin + block) * kTileRows;
      WeightSums t;
      t.offset = block * taps * kTileValues;
      t.partial = partial + t.offset;
      t.resume = s.resume;
      t.complete = s.complete;
      t.fold = &fold;
      t.scale = g.scale;
      t.dw = g.dw + output * taps * g.block->channels + panel * kPanel;
      t.in = g.block->channels;
      t.rows = int(smaller<int64_t>(kTileRows, conv.out - output));
      t.columns = columns;
      add_weight_sums<TILE>(pair, products + block * kTileValues, position_step, t);
    }
  }
}

/// As in the forward pass, only F(4×4) is accurate enough for float32.
template <int TILE> constexpr WinogradBackwardKernels winograd_backward_kernels() {
  WinogradBackwardKernels k = {};
  if constexpr (TILE == 4) {
    k.input[0] = winograd_gradient_input<float, TILE>;
    k.output[0] = winograd_gradient_output<float, TILE>;
  }
  k.input[1] = winograd_gradient_input<bf16, TILE>;
  k.output[1] = winograd_gradient_output<bf16, TILE>;
  k.multiply = winograd_gradient_multiply<TILE>;
  return k;
}
