// Attention of one (batch, head). Keys and values are packed as ordinary B panels; the scores of a block of queries fit
// L2, so the softmax is exact in two passes and needs no running maximum.
#pragma once

/// Row t of the keys or values over both runs.
template <class T>
DF_INLINE const T* token_row(const void* const* runs, const int64_t* strides, int64_t first, int64_t t) {
  const int run = t >= first;
  return static_cast<const T*>(runs[run]) + (run ? t - first : t) * strides[run];
}

template <class T> DF_INLINE void pack_keys(const AttentionKeys& s, T* out) {
  constexpr int unit = Product<T>::unit;
  const int64_t tokens = s.tokens[0] + s.tokens[1], padded = (s.width + unit - 1) / unit * unit;
  for (int64_t t0 = 0; t0 < tokens; t0 += kPanel, out += padded * kPanel) {
    const int rows = int(smaller<int64_t>(kPanel, tokens - t0));
    const int in_first = int(t0 >= s.tokens[0] ? 0 : smaller<int64_t>(rows, s.tokens[0] - t0));
    // a panel of one run is read in place; one that spans both, or has an odd width, goes through a small copy
    if (padded == s.width && (in_first == 0 || in_first == rows)) {
      const int run = in_first == 0;
      const T* src = token_row<T>(s.key, s.key_stride, s.tokens[0], t0);
      interleave(out, src, s.key_stride[run] * int64_t(sizeof(T)), rows, padded / unit);
      continue;
    }
    constexpr int64_t kChunk = 128;
    alignas(64) T chunk[kPanel][kChunk];
    for (int64_t k = 0; k < s.width; k += kChunk) {
      const int64_t n = smaller(kChunk, s.width - k), units = (n + unit - 1) / unit;
      for (int j = 0; j < rows; j++) {
        __builtin_memcpy(chunk[j], token_row<T>(s.key, s.key_stride, s.tokens[0], t0 + j) + k, size_t(n) * sizeof(T));
        for (int64_t i = n; i < units * unit; i++) chunk[j][i] = T{};
      }
      interleave(out + k * kPanel, chunk, sizeof(chunk[0]), rows, units);
    }
  }
}

template <class T> DF_INLINE void pack_values(const AttentionKeys& s, T* out) {
  constexpr int unit = Product<T>::unit;
  const int64_t tokens = s.tokens[0] + s.tokens[1], groups = (tokens + unit - 1) / unit;
  static const T none[kPanel] = {};
  for (int c = 0; c < s.width; c += kPanel)
    for (int64_t g = 0; g < groups; g++, out += kPanel * unit) {
      const int n = smaller(kPanel, s.width - c);
      const T* row[2] = {none, none};
      for (int e = 0; e < unit; e++) {
        const int64_t t = g * unit + e;
        if (t < tokens && !(s.mask && s.mask[t] == 0))
          row[e] = token_row<T>(s.value, s.value_stride, s.tokens[0], t) + c;
      }
      if constexpr (unit == 1) {
        __builtin_memcpy(out, row[0], size_t(n) * sizeof(T));
      } else {
        uint32_t* pairs = reinterpret_cast<uint32_t*>(out);
        for (int i = 0; i < n; i++) pairs[i] = row[0][i].bits | uint32_t(row[1][i].bits) << 16;
      }
      __builtin_memset(out + n * unit, 0, size_t(kPanel - n) * unit * sizeof(T));
    }
}

template <class T> void attention_pack(const AttentionKeys* s, void* keys, void* values) {
  pack_keys(*s, static_cast<T*>(keys));
  pack_values(*s, static_cast<T*>(values));
}

/// scores → scores * scale + bias, -inf where the mask is 0.
DF_INLINE void adjust_scores(float* s, int64_t n, float scale, const float* bias, const int32_t* mask) {
  for_vectors(n, [&](int64_t i, int m) {
    Vec v = load(s + i) * set1(scale);
    if (bias) v = v + load_some(bias + i, m);
    if (mask) v = select(nonzero(mask + i, m), v, set1(-__builtin_inff()));
    store(s + i, v);
  });
}

/// exp(s * scale - max) into weights, n a multiple of 2 * kLanes; returns the sum. A NaN score makes the sum NaN.
template <class T> DF_INLINE float softmax_weights(T* weights, const float* s, int64_t n, float scale) {
  constexpr bool coarse = sizeof(T) < sizeof(float);
  const Vec f = set1(coarse ? scale * 1.44269504f : scale);
  Vec m0 = set1(-__builtin_inff()), m1 = m0;
  for (int64_t i = 0; i < n; i += 2 * kLanes) {
    m0 = maximum(m0, load(s + i) * f);
    m1 = maximum(m1, load(s + i + kLanes) * f);
  }
  const Vec top = set1(largest(maximum(m0, m1))), lowest = set1(-87.f);  // below: denormal, taken as zero
  const auto weight = [&](Vec v) DF_LAMBDA_INLINE {
    const Vec x = v * f - top;
    if constexpr (coarse) return coarse_power_of_two(x);
    else return select(less(x, lowest), set1(0), exponential(x));
  };
  Vec s0 = set1(0), s1 = s0;
  for (int64_t i = 0; i < n; i += 2 * kLanes) {
    const Vec e0 = weight(load(s + i)), e1 = weight(load(s + i + kLanes));
    s0 = s0 + e0;
    s1 = s1 + e1;
    store(weights + i, e0);
    store(weights + i + kLanes, e1);
  }
  return sum(s0 + s1);
}

template <class T> void attention(const AttentionRows* problem, float* scores, void* weight_rows, int64_t stride) {
  const AttentionRows& g = *problem;
  constexpr int unit = Product<T>::unit;
  constexpr int64_t kStep = 2 * kLanes;  // of the softmax
  T* weights = static_cast<T*>(weight_rows);
  const T* q = static_cast<const T*>(g.q);
  T* y = static_cast<T*>(g.y);
  const int64_t panels = (g.tokens + kPanel - 1) / kPanel, width = (g.width + unit - 1) / unit * unit;
  const int64_t softmax_n = (g.tokens + kStep - 1) / kStep * kStep, groups = (g.tokens + unit - 1) / unit;
  const bool adjusted = g.bias || g.mask || !(g.scale > 0);  // -inf * scale below must stay -inf
  const T *a[kTileRows], *b;
  alignas(64) float product[kTileRows * kPanel];
  float inverse[kTileRows];
  for (int64_t q0 = 0; q0 < g.rows; q0 += g.block_rows) {
    const int64_t rows = smaller<int64_t>(g.block_rows, g.rows - q0);
    for (int64_t p = 0; p < panels; p++) {
      b = static_cast<const T*>(g.keys) + p * width * kPanel;
      for (int64_t r = 0; r < rows;) {
        const int n = next_rows(rows - r);
        for (int i = 0; i < n; i++) a[i] = q + (q0 + r + i) * g.q_stride;
        TileTarget<T> t;
        t.partial = scores + r * stride + p * kPanel;
        t.partial_stride = stride;
        t.columns = int(smaller<int64_t>(kPanel, g.tokens - p * kPanel));
        run_tile<T>(n, 1, width / unit, a, &b, t);
        r += n;
      }
    }
    for (int64_t r = 0; r < rows;) {
      const int n = next_rows(rows - r);
      for (int i = 0; i < n; i++) {
        float* s = scores + (r + i) * stride;
        const float* bias = g.bias ? g.bias + (q0 + r + i) * g.bias_stride : nullptr;
        if (adjusted) adjust_scores(s, g.tokens, g.scale, bias, g.mask);
        for (int64_t k = g.tokens; k < softmax_n; k++) s[k] = -__builtin_inff();
        a[i] = weights + (r + i) * stride;
        inverse[i] = 1.f / softmax_weights(weights + (r + i) * stride, s, softmax_n, adjusted ? 1.f : g.scale);
      }
      for (int c = 0; c < g.width; c += kPanel) {
        const int columns = smaller(kPanel, g.width - c);
        b = static_cast<const T*>(g.values) + c * groups * unit;
        TileTarget<T> t;
        t.partial = product;
        t.columns = columns;
        run_tile<T>(n, 1, groups, a, &b, t);
        for (int i = 0; i < n; i++) {
          T* out = y + (q0 + r + i) * g.y_stride + c;
          for_vectors(columns, [&](int64_t k, int m) {
            store_some(out + k, load(product + i * kPanel + k) * set1(inverse[i]), m);
          });
        }
      }
      r += n;
    }
  }
}
