// Group, layer and RMS normalisation.
#pragma once

template <class T>
void channel_moments(const void* data, int64_t stride, int64_t pixels, int64_t channels, double* sum, double* squares) {
  const T* x = static_cast<const T*>(data);
  // 64 pixels: the fp32 sums stay short and a block of channels stays in L1 between the local mean and the moments.
  // The mean of 8 pixels is enough of a shift: it is off by at most the spread of the values themselves.
  constexpr int64_t kChunk = 64, kMeanOf = 8;
  constexpr int kVectors = 4;
  for (int64_t c = 0; c < channels; c++) sum[c] = squares[c] = 0;
  for (int64_t p = 0; p < pixels; p += kChunk) {
    const int64_t n = smaller(kChunk, pixels - p), few = smaller(kMeanOf, n);
    const T* chunk = x + p * stride;
    for (int64_t c = 0; c < channels; c += kVectors * kLanes) {
      const int width = int(smaller<int64_t>(kVectors * kLanes, channels - c));
      Vec mean[kVectors], s[kVectors], q[kVectors];
      const auto accumulate = [&](const auto& read_vector, int vectors) DF_LAMBDA_INLINE {
        for (int j = 0; j < vectors; j++) mean[j] = s[j] = q[j] = set1(0);
        for (int64_t i = 0; i < few; i++)
          for (int j = 0; j < vectors; j++) mean[j] = mean[j] + read_vector(chunk + i * stride + c, j);
        for (int j = 0; j < vectors; j++) mean[j] = mean[j] * set1(1.f / float(few));
        for (int64_t i = 0; i < n; i++)
          for (int j = 0; j < vectors; j++) {
            const Vec d = read_vector(chunk + i * stride + c, j) - mean[j];
            s[j] = s[j] + d;
            q[j] = fma(d, d, q[j]);
          }
      };
      if (width == kVectors * kLanes) {
        accumulate([](const T* r, int j) DF_LAMBDA_INLINE { return load(r + j * kLanes); }, kVectors);
      } else {
        accumulate([width](const T* r, int j) DF_LAMBDA_INLINE {
          return load_some(r + j * kLanes, smaller(kLanes, width - j * kLanes));
        }, (width + kLanes - 1) / kLanes);
      }
      alignas(64) float m[kVectors * kLanes], ds[kVectors * kLanes], dq[kVectors * kLanes];
      for (int j = 0; j * kLanes < width; j++) {
        store(m + j * kLanes, mean[j]);
        store(ds + j * kLanes, s[j]);
        store(dq + j * kLanes, q[j]);
      }
      for (int i = 0; i < width; i++) {  // Σx = Σd + nm, Σx² = Σd² + 2mΣd + nm²
        const double mi = m[i], si = ds[i];
        sum[c + i] += si + double(n) * mi;
        squares[c + i] += dq[i] + mi * (2 * si + double(n) * mi);
      }
    }
  }
}

template <class T, int KIND>
void normalize_rows(T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t pixels, int64_t channels,
                    const float* mean, const float* a, const float* b) {
  for (int64_t p = 0; p < pixels; p++, x += x_stride, y += y_stride) {
    int64_t c = 0;
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {  // two vectors: their polynomial chains overlap
      const Vec v0 = fma(load(x + c) - load(mean + c), load(a + c), load(b + c));
      const Vec v1 = fma(load(x + c + kLanes) - load(mean + c + kLanes), load(a + c + kLanes), load(b + c + kLanes));
      store(y + c, activate<KIND>(v0));
      store(y + c + kLanes, activate<KIND>(v1));
    }
    for (; c < channels; c += kLanes) {
      const int n = int(smaller<int64_t>(kLanes, channels - c));
      const Vec v = fma(load_some(x + c, n) - load_some(mean + c, n), load_some(a + c, n), load_some(b + c, n));
      store_some(y + c, activate<KIND>(v), n);
    }
  }
}

template <class T>
void normalize(void* y, int64_t y_stride, const void* x, int64_t x_stride, int64_t pixels, int64_t channels,
               const float* mean, const float* a, const float* b, int kind) {
  T* out = static_cast<T*>(y);
  const T* in = static_cast<const T*>(x);
  with_activation(kind, [&](auto k) DF_LAMBDA_INLINE {
    normalize_rows<T, k.value>(out, y_stride, in, x_stride, pixels, channels, mean, a, b);
  });
}

/// Σ term(x[i]) of one row in fp32, as 4 × kLanes interleaved sums. term(value, lanes) must be zero in absent lanes.
template <class T, class F> DF_INLINE float row_sum(const T* x, int64_t n, const F& term) {
  Vec s[4] = {set1(0), set1(0), set1(0), set1(0)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int j = 0; j < 4; j++) s[j] = s[j] + term(load(x + i + j * kLanes), kLanes);
  for (; i < n; i += kLanes) {
    const int m = int(smaller<int64_t>(kLanes, n - i));
    s[0] = s[0] + term(load_some(x + i, m), m);
  }
  return sum((s[0] + s[1]) + (s[2] + s[3]));
}

/// v in the first n lanes, zero in the others.
DF_INLINE Vec keep(Vec v, int n) {
  if (n == kLanes) return v;
  float lanes[kLanes];
  store(lanes, v);
  return load_n(lanes, n);
}

/// x̂ of a row; CENTRED: of layer_norm, else of rms_norm.
template <bool CENTRED> struct RowMoments {
  Vec mean, rest;  // the rounding of the mean is corrected by the mean of the differences
  Vec inverse;
  DF_INLINE Vec centred(Vec x) const { return CENTRED ? (x - mean) - rest : x; }
  DF_INLINE Vec normalized(Vec x) const { return centred(x) * inverse; }
};

template <bool CENTRED, class T> DF_INLINE RowMoments<CENTRED> row_moments(const T* x, int64_t n, float eps) {
  RowMoments<CENTRED> row;
  if constexpr (CENTRED) {
    const Vec mean = set1(row_sum(x, n, [](Vec v, int) DF_LAMBDA_INLINE { return v; }) / float(n));
    row.mean = mean;
    row.rest = set1(row_sum(x, n, [mean](Vec v, int m) DF_LAMBDA_INLINE { return keep(v - mean, m); }) / float(n));
  }
  const float square_sum = row_sum(x, n, [&row](Vec v, int m) DF_LAMBDA_INLINE {
    const Vec d = CENTRED ? keep(row.centred(v), m) : v;
    return d * d;
  });
  row.inverse = set1(1.f / __builtin_sqrtf(square_sum / float(n) + eps));
  return row;
}

template <class T>
void layer_norm(void* y, const void* data, int64_t n, const float* gamma, const float* beta, float eps) {
  const T* x = static_cast<const T*>(data);
  T* out = static_cast<T*>(y);
  const RowMoments<true> row = row_moments<true>(x, n, eps);
  for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
    store_some(out + i, fma(row.normalized(load_some(x + i, m)), load_some(gamma + i, m), load_some(beta + i, m)), m);
  });
}

template <class T> void rms_norm(void* y, const void* data, int64_t n, const float* gamma, float eps) {
  const T* x = static_cast<const T*>(data);
  T* out = static_cast<T*>(y);
  const RowMoments<false> row = row_moments<false>(x, n, eps);
  for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
    store_some(out + i, row.normalized(load_some(x + i, m)) * load_some(gamma + i, m), m);
  });
}
