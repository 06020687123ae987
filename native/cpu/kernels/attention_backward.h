// Backward of attention for one (batch, head), transposed: rows are keys, columns are a panel of queries. Then keys and
// values are read where they are, the softmax needs no sums across lanes, P and dS come out as the rows that dV = Pᵀ·dY
// and dK = dSᵀ·Q multiply, and only dS is needed once more, as the panel of dQᵀ = Kᵀ·dSᵀ.
#pragma once

/// Working memory of one head. `unit` values of T lie side by side in a panel.
template <class T> struct AttentionBackwardMemory {
  static constexpr int unit = Product<T>::unit;
  int64_t width, tokens;      // in whole units
  int64_t columns;            // the width in whole panels
  T *key, *value;             // [tokens][width], zero where ignored or absent
  T* key_columns;             // [width][tokens]
  float *dkey, *dvalue;       // [tokens][columns]
  // of one block of queries
  T* rows;                    // [kPanel][width]
  T *q_keys, *dy_keys;        // panel over queries [width / unit][kPanel][unit]
  T *q_values, *dy_values;    // panels over the width [panel][kPanel / unit][kPanel][unit]
  float *scores, *dweights;   // [tokens][kPanel]
  float *dq_columns, *dq;     // [width][kPanel], [kPanel][width]
  int64_t bytes = 0;

  AttentionBackwardMemory(const AttentionBackwardProblem& g, char* memory) {
    width = (g.width + unit - 1) / unit * unit;
    tokens = (g.tokens + unit - 1) / unit * unit;
    columns = (g.width + kPanel - 1) / kPanel * kPanel;
    const auto take = [&](auto*& p, int64_t n) {
      p = memory ? reinterpret_cast<decltype(&*p)>(memory + bytes) : nullptr;
      bytes += (n * int64_t(sizeof(*p)) + 63) / 64 * 64;
    };
    take(key, tokens * width);
    take(value, tokens * width);
    take(key_columns, width * tokens);
    take(dkey, tokens * columns);
    take(dvalue, tokens * columns);
    take(rows, kPanel * width);
    take(q_keys, kPanel * width);
    take(dy_keys, kPanel * width);
    take(q_values, kPanel * columns);
    take(dy_values, kPanel * columns);
    take(scores, tokens * kPanel);
    take(dweights, tokens * kPanel);
    take(dq_columns, width * kPanel);
    take(dq, kPanel * width);
  }

  /// P and dS of a key as rows of T, and dS as a panel [token / unit][kPanel][unit]. Where two values fit in the place
  /// of a float, a row of scores becomes a row of P and one of dS, and the first half of dweights the panel.
  static constexpr bool halves = sizeof(T) < sizeof(float);
  static constexpr int64_t row_step = halves ? 2 * kPanel : kPanel;
  T* weight_rows() const { return reinterpret_cast<T*>(scores); }
  T* dscore_rows() const { return halves ? weight_rows() + kPanel : dscore_panel(); }
  T* dscore_panel() const { return reinterpret_cast<T*>(dweights); }
};

/// Rows of keys or values of both runs, those that the mask ignores as zeros.
template <class T>
void gather_tokens(const AttentionBackwardProblem& g, const void* const* runs, const int64_t* strides, T* out,
                   int64_t width, int64_t tokens) {
  for (int64_t t = 0; t < tokens; t++, out += width) {
    const bool kept = t < g.tokens && !(g.mask && g.mask[t] == 0);
    int64_t n = 0;
    if (kept) {
      n = g.width;
      __builtin_memcpy(out, token_row<T>(runs, strides, g.run[0], t), size_t(n) * sizeof(T));
    }
    for (; n < width; n++) out[n] = T{};
  }
}

/// y[c][r] = x[r][c]
template <class T>
DF_INLINE void transpose(T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t columns) {
  constexpr int64_t kBlock = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock)
    for (int64_t c0 = 0; c0 < columns; c0 += kBlock) {
      const int64_t r1 = smaller(rows, r0 + kBlock), c1 = smaller(columns, c0 + kBlock);
      for (int64_t c = c0; c < c1; c++)
        for (int64_t r = r0; r < r1; r++) y[c * y_stride + r] = x[r * x_stride + c];
    }
}

/// `rows` rows of x as panels over the width [panel][rows / unit][kPanel][unit]; the last unit is filled with zeros.
template <class T>
DF_INLINE void pack_rows(T* out, const T* x, int64_t rows, int64_t stride, int64_t width) {
  constexpr int unit = Product<T>::unit;
  for (int64_t c = 0; c < width; c += kPanel)
    for (int64_t r = 0; r < rows; r += unit, out += kPanel * unit)
      for (int j = 0; j < kPanel; j += kLanes) {
        const int n = int(c + j + kLanes <= width ? kLanes : c + j < width ? width - c - j : 0);
        const T* row = x + r * stride + c + j;
        if constexpr (unit == 1) store(out + j, load_some(row, n));
        else store_pairs(out + j * 2, load_some(row, n), r + 1 < rows ? load_some(row + stride, n) : set1(0));
      }
}

/// The rows of a block of queries in contiguous memory, and packed both ways. Columns of the last unit that have no
/// query repeat the last one in `keys`, so that their scores are numbers when its own are; in `values` they are zero.
template <class T>
void pack_queries(const T* x, int64_t stride, int64_t rows, int64_t width, int64_t padded, T* copy, T* keys,
                  T* values) {
  constexpr int unit = Product<T>::unit;
  const int64_t whole = (rows + unit - 1) / unit * unit;
  for (int64_t r = 0; r < whole; r++) {
    __builtin_memcpy(copy + r * padded, x + smaller(r, rows - 1) * stride, size_t(width) * sizeof(T));
    for (int64_t i = width; i < padded; i++) copy[r * padded + i] = T{};
  }
  interleave(keys, copy, padded * int64_t(sizeof(T)), int(whole), padded / unit);
  pack_rows(values, copy, rows, padded, width);
}

/// out (tokens, kPanel) = rows (tokens, width) × one panel of queries.
template <class T>
DF_INLINE void multiply_tokens(const T* rows, const T* panel, int64_t tokens, int64_t width, float* out) {
  const T* a[kTileRows];
  for (int64_t t = 0; t < tokens;) {
    const int n = next_rows(tokens - t);
    for (int i = 0; i < n; i++) a[i] = rows + (t + i) * width;
    TileTarget<T> target;
    target.partial = out + t * kPanel;
    run_tile<T>(n, 1, width / Product<T>::unit, a, &panel, target);
    t += n;
  }
}

/// sums (tokens, columns) += rows (tokens, queries) × panels over the width; `resume` false: =.
template <class T>
DF_INLINE void add_to_tokens(const T* rows, int64_t row_step, const T* panels, int64_t queries, int64_t tokens,
                             int64_t width, int64_t columns, float* sums, bool resume) {
  constexpr int unit = Product<T>::unit;
  const int64_t units = (queries + unit - 1) / unit;
  const T* a[kTileRows];
  for (int64_t t = 0; t < tokens;) {
    const int n = next_rows(tokens - t);
    for (int i = 0; i < n; i++) a[i] = rows + (t + i) * row_step;
    for (int64_t c = 0; c < width; c += kPanel) {
      const T* b = panels + c * units * unit;
      TileTarget<T> target;
      target.partial = sums + t * columns + c;
      target.partial_stride = columns;
      target.resume = resume;
      target.columns = int(smaller<int64_t>(kPanel, width - c));
      run_tile<T>(n, 1, units, a, &b, target);
    }
    t += n;
  }
}

DF_INLINE bool is_ignored(const AttentionBackwardProblem& g, int64_t token) { return g.mask && g.mask[token] == 0; }

/// scores → scores * scale + bias, -inf where the mask is 0.
DF_INLINE void adjust_columns(const AttentionBackwardProblem& g, float* scores, int64_t first, int64_t queries) {
  const Vec scale = set1(g.scale), none = set1(-__builtin_inff());
  for (int64_t t = 0; t < g.tokens; t++) {
    float* s = scores + t * kPanel;
    for (int j = 0; j < kPanel; j += kLanes) store(s + j, is_ignored(g, t) ? none : load(s + j) * scale);
    for (int64_t i = 0; g.bias && i < queries; i++) s[i] += g.bias[(first + i) * g.bias_stride + t];
  }
}

/// One vector of dS, of a token and the queries from `first` on.
DF_INLINE void store_bias_gradient(const AttentionBackwardProblem& g, Vec dscore, int64_t token, int64_t first,
                                   int64_t end) {
  float lanes[kLanes];
  store(lanes, is_ignored(g, token) ? set1(0) : dscore);
  for (int64_t i = 0; i < smaller<int64_t>(kLanes, end - first); i++) g.dbias[(first + i) * g.tokens + token] = lanes[i];
}

/// From scores and dweights to P and dS, rows and panel, for the columns of a block of queries.
template <class T>
void softmax_backward(const AttentionBackwardProblem& g, const AttentionBackwardMemory<T>& m, int64_t first,
                      int64_t queries) {
  constexpr int unit = Product<T>::unit, vectors = kTileVectors;
  const bool adjusted = g.bias || g.mask || !(g.scale > 0);  // -inf * scale below must stay -inf
  if (adjusted) adjust_columns(g, m.scores, first, queries);
  const Vec f = set1(adjusted ? 1.f : g.scale), lowest = set1(-87.f);  // below: denormal, taken as zero
  Vec top[vectors], total[vectors], delta[vectors];
#pragma GCC unroll 4
  for (int j = 0; j < vectors; j++) top[j] = set1(-__builtin_inff()), total[j] = delta[j] = set1(0);
  for (int64_t t = 0; t < g.tokens; t++)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) top[j] = maximum(top[j], load(m.scores + t * kPanel + j * kLanes) * f);
  for (int64_t t = 0; t < g.tokens; t++)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) {
      float* s = m.scores + t * kPanel + j * kLanes;
      const Vec x = load(s) * f - top[j], e = select(less(x, lowest), set1(0), exponential(x));
      total[j] = total[j] + e;
      delta[j] = fma(e, load(m.dweights + t * kPanel + j * kLanes), delta[j]);
      store(s, e);
    }
#pragma GCC unroll 4
  for (int j = 0; j < vectors; j++) {
    total[j] = set1(1.f) / total[j];
    delta[j] = delta[j] * total[j];
  }
  for (int64_t t = 0; t < g.tokens; t += unit) {
    Vec weight[unit][vectors], dscore[unit][vectors];
#pragma GCC unroll 2
    for (int e = 0; e < unit; e++) {
      const bool present = t + e < g.tokens;
#pragma GCC unroll 4
      for (int j = 0; j < vectors; j++) {
        const int64_t at = (t + e) * kPanel + j * kLanes;
        weight[e][j] = present ? load(m.scores + at) * total[j] : set1(0);
        dscore[e][j] = present ? weight[e][j] * (load(m.dweights + at) - delta[j]) : set1(0);
        if (g.dbias && present) store_bias_gradient(g, dscore[e][j], t + e, first + j * kLanes, first + queries);
      }
    }
#pragma GCC unroll 2
    for (int e = 0; e < unit; e++)
#pragma GCC unroll 4
      for (int j = 0; j < vectors; j++) {
        const int64_t at = (t + e) * m.row_step + j * kLanes;
        store(m.weight_rows() + at, weight[e][j]);
        store(m.dscore_rows() + at, dscore[e][j]);
      }
    if constexpr (unit == 2)
#pragma GCC unroll 4
      for (int j = 0; j < vectors; j++)
        store_pairs(m.dscore_panel() + t * kPanel + j * kLanes * 2, dscore[0][j], dscore[1][j]);
  }
}

/// dQ of a block of queries, dQᵀ = Kᵀ·dSᵀ.
template <class T>
void query_gradient(const AttentionBackwardProblem& g, const AttentionBackwardMemory<T>& m, int64_t first,
                    int64_t queries) {
  const T *a[kTileRows], *b = m.dscore_panel();
  for (int64_t d = 0; d < g.width;) {
    const int n = next_rows(g.width - d);
    for (int i = 0; i < n; i++) a[i] = m.key_columns + (d + i) * m.tokens;
    TileTarget<T> target;
    target.partial = m.dq_columns + d * kPanel;
    run_tile<T>(n, 1, m.tokens / m.unit, a, &b, target);
    d += n;
  }
  transpose(m.dq, g.width, m.dq_columns, kPanel, g.width, queries);
  for (int64_t i = 0; i < queries; i++) {
    T* out = static_cast<T*>(g.dq.into) + (first + i) * g.dq.stride;
    for_vectors(g.width, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      store_gradient(out + c, g.dq.add, load_some(m.dq + i * g.width + c, n) * set1(g.scale), n);
    });
  }
}

/// The sums over all queries as gradients of both runs of keys or values, zero where the mask ignores.
template <class T>
void store_tokens(const AttentionBackwardProblem& g, const HeadGradient* gradients, const float* sums, int64_t columns,
                  float scale) {
  for (int64_t t = 0; t < g.tokens; t++) {
    const int run = t >= g.run[0];
    const HeadGradient& gradient = gradients[run];
    if (!gradient.into) continue;
    T* out = static_cast<T*>(gradient.into) + (run ? t - g.run[0] : t) * gradient.stride;
    const bool ignored = is_ignored(g, t);
    for_vectors(g.width, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      const Vec v = ignored ? set1(0) : load_some(sums + t * columns + c, n) * set1(scale);
      store_gradient(out + c, gradient.add, v, n);
    });
  }
}

template <class T> int64_t attention_backward_bytes(const AttentionBackwardProblem* g) {
  return AttentionBackwardMemory<T>(*g, nullptr).bytes;
}

template <class T> void attention_backward(const AttentionBackwardProblem* problem, char* memory) {
  const AttentionBackwardProblem& g = *problem;
  const AttentionBackwardMemory<T> m(g, memory);
  const bool keys = g.dkey[0].into || g.dkey[1].into, values = g.dvalue[0].into || g.dvalue[1].into;
  gather_tokens(g, g.key, g.key_stride, m.key, m.width, m.tokens);
  gather_tokens(g, g.value, g.value_stride, m.value, m.width, m.tokens);
  if (g.dq.into) transpose(m.key_columns, m.tokens, m.key, m.width, m.tokens, m.width);
  for (int64_t first = 0; first < g.queries; first += kPanel) {
    const int64_t n = smaller<int64_t>(kPanel, g.queries - first);
    pack_queries(static_cast<const T*>(g.q) + first * g.q_stride, g.q_stride, n, g.width, m.width, m.rows, m.q_keys,
                 m.q_values);
    pack_queries(static_cast<const T*>(g.dy) + first * g.dy_stride, g.dy_stride, n, g.width, m.width, m.rows, m.dy_keys,
                 m.dy_values);
    multiply_tokens(m.key, m.q_keys, g.tokens, m.width, m.scores);
    multiply_tokens(m.value, m.dy_keys, g.tokens, m.width, m.dweights);
    softmax_backward(g, m, first, n);
    if (values)
      add_to_tokens(m.weight_rows(), m.row_step, m.dy_values, n, g.tokens, g.width, m.columns, m.dvalue, first > 0);
    if (keys)
      add_to_tokens(m.dscore_rows(), m.row_step, m.q_values, n, g.tokens, g.width, m.columns, m.dkey, first > 0);
    if (g.dq.into) query_gradient(g, m, first, n);
  }
  store_tokens<T>(g, g.dkey, m.dkey, m.columns, g.scale);
  store_tokens<T>(g, g.dvalue, m.dvalue, m.columns, 1);
}

constexpr AttentionBackwardKernels kAttentionBackward = {
    {attention_backward_bytes<float>, attention_backward_bytes<bf16>},
    {attention_backward<float>, attention_backward<bf16>},
};
