// Backward of group, layer and RMS normalisation.
#pragma once

/// The gradient g before the activation, and x - mean.
template <class T, int KIND>
DF_INLINE Vec gradient_before(const T* dy, const T* x, int n, Vec mean, Vec a, Vec b, Vec& centred) {
  centred = load_some(x, n) - mean;
  return load_some(dy, n) * activation_derivative<KIND>(fma(centred, a, b));
}

template <class T, int KIND>
void gradient_moments_of(const T* dy, int64_t dy_stride, const T* x, int64_t x_stride, int64_t pixels,
                         int64_t channels, const float* mean, const float* a, const float* b, double* sum,
                         double* product) {
  constexpr int64_t kChunk = 32;  // pixels of an fp32 sum
  constexpr int kVectors = 2;     // their polynomial chains overlap
  for (int64_t c = 0; c < channels; c++) sum[c] = product[c] = 0;
  for (int64_t p = 0; p < pixels; p += kChunk) {
    const int64_t n = smaller(kChunk, pixels - p);
    for (int64_t c = 0; c < channels; c += kVectors * kLanes) {
      const int width = int(smaller<int64_t>(kVectors * kLanes, channels - c));
      Vec s[kVectors], q[kVectors];
      const auto accumulate = [&](int vectors, const auto& lanes) DF_LAMBDA_INLINE {
        Vec m[kVectors], f[kVectors], o[kVectors];
        for (int j = 0; j < vectors; j++) {
          m[j] = load_some(mean + c + j * kLanes, lanes(j));
          f[j] = load_some(a + c + j * kLanes, lanes(j));
          o[j] = load_some(b + c + j * kLanes, lanes(j));
          s[j] = q[j] = set1(0);
        }
        for (int64_t i = p; i < p + n; i++)
          for (int j = 0; j < vectors; j++) {
            Vec centred;
            const int64_t at = c + j * kLanes;
            const Vec g = gradient_before<T, KIND>(dy + i * dy_stride + at, x + i * x_stride + at, lanes(j), m[j], f[j],
                                                   o[j], centred);
            s[j] = s[j] + g;
            q[j] = fma(g, centred, q[j]);
          }
      };
      if (width == kVectors * kLanes) accumulate(kVectors, [](int) DF_LAMBDA_INLINE { return kLanes; });
      else
        accumulate((width + kLanes - 1) / kLanes, [width](int j) DF_LAMBDA_INLINE {
          return smaller(kLanes, width - j * kLanes);
        });
      alignas(64) float ds[kVectors * kLanes], dq[kVectors * kLanes];
      for (int j = 0; j * kLanes < width; j++) {
        store(ds + j * kLanes, s[j]);
        store(dq + j * kLanes, q[j]);
      }
      for (int i = 0; i < width; i++) {
        sum[c + i] += double(ds[i]);
        product[c + i] += double(dq[i]);
      }
    }
  }
}

template <class T>
void gradient_moments(const void* dy, int64_t dy_stride, const void* x, int64_t x_stride, int64_t pixels,
                      int64_t channels, const float* mean, const float* a, const float* b, int kind, double* sum,
                      double* product) {
  const T *d = static_cast<const T*>(dy), *v = static_cast<const T*>(x);
  with_activation(kind, [&](auto k) DF_LAMBDA_INLINE {
    gradient_moments_of<T, k.value>(d, dy_stride, v, x_stride, pixels, channels, mean, a, b, sum, product);
  });
}

template <class T, int KIND>
void normalize_backward_rows(T* dx, int64_t dx_stride, int add, const T* dy, int64_t dy_stride, const T* x,
                             int64_t x_stride, int64_t pixels, int64_t channels, const float* factors) {
  const float *mean = factors, *a = mean + channels, *b = a + channels, *slope = b + channels,
              *offset = slope + channels;
  const auto part = [&](int64_t c, int n) DF_LAMBDA_INLINE {
    Vec centred;
    const Vec f = load_some(a + c, n);
    const Vec g = gradient_before<T, KIND>(dy + c, x + c, n, load_some(mean + c, n), f, load_some(b + c, n), centred);
    return fma(g, f, (set1(0) - load_some(offset + c, n)) - centred * load_some(slope + c, n));
  };
  for (int64_t p = 0; p < pixels; p++, x += x_stride, dy += dy_stride, dx += dx_stride) {
    int64_t c = 0;
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {  // two vectors: their polynomial chains overlap
      const Vec v0 = part(c, kLanes), v1 = part(c + kLanes, kLanes);
      store_gradient(dx + c, add, v0, kLanes);
      store_gradient(dx + c + kLanes, add, v1, kLanes);
    }
    for (; c < channels; c += kLanes) {
      const int n = int(smaller<int64_t>(kLanes, channels - c));
      store_gradient(dx + c, add, part(c, n), n);
    }
  }
}

template <class T>
void normalize_backward(void* dx, int64_t dx_stride, int add, const void* dy, int64_t dy_stride, const void* x,
                        int64_t x_stride, int64_t pixels, int64_t channels, const float* factors, int kind) {
  T* out = static_cast<T*>(dx);
  const T *d = static_cast<const T*>(dy), *v = static_cast<const T*>(x);
  with_activation(kind, [&](auto k) DF_LAMBDA_INLINE {
    normalize_backward_rows<T, k.value>(out, dx_stride, add, d, dy_stride, v, x_stride, pixels, channels, factors);
  });
}

/// Adds the fp32 sums of some rows to the totals and clears them.
DF_INLINE void flush_sums(float* sums, double* totals, int64_t n) {
  for (int64_t i = 0; i < n; i++) totals[i] += double(sums[i]), sums[i] = 0;
}

template <class T, bool CENTRED> void row_norm_backward(const RowNormBackward* problem) {
  const RowNormBackward& g = *problem;
  constexpr int64_t kChunk = 32;  // rows of an fp32 sum
  const int64_t n = g.channels;
  const float inverse_n = 1.f / float(n);
  float *dgamma = g.dgamma ? g.sums : nullptr, *dbeta = g.dbeta ? g.sums + n : nullptr;
  for (int64_t i = 0; i < n; i++) {
    if (dgamma) g.dgamma[i] = 0, dgamma[i] = 0;
    if (dbeta) g.dbeta[i] = 0, dbeta[i] = 0;
  }
  for (int64_t r = 0; r < g.rows; r++) {
    const T* x = static_cast<const T*>(g.x) + r * g.x_stride;
    const T* dy = static_cast<const T*>(g.dy) + r * g.dy_stride;
    const RowMoments<CENTRED> row = row_moments<CENTRED>(x, n, g.eps);
    if (g.dx) {
      // dx = inverse * (d - mean(d) - x̂ * mean(d * x̂)), d = dy * gamma
      T* dx = static_cast<T*>(g.dx) + r * g.dx_stride;
      Vec sum0 = set1(0), sum1 = set1(0);
      for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
        const Vec d = load_some(dy + i, m) * load_some(g.gamma + i, m);
        if constexpr (CENTRED) sum0 = sum0 + d;
        sum1 = fma(d, row.normalized(load_some(x + i, m)), sum1);
      });
      const Vec mean = set1(sum(sum0) * inverse_n), slope = set1(sum(sum1) * inverse_n);
      for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
        const Vec xhat = row.normalized(load_some(x + i, m));
        const Vec d = load_some(dy + i, m) * load_some(g.gamma + i, m);
        const Vec v = CENTRED ? (d - mean) - xhat * slope : d - xhat * slope;
        store_gradient(dx + i, g.add, v * row.inverse, m);
      });
    }
    if (dgamma)
      for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
        const Vec xhat = row.normalized(load_some(x + i, m));
        store_some(dgamma + i, fma(load_some(dy + i, m), xhat, load_some(dgamma + i, m)), m);
      });
    if (dbeta)
      for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
        store_some(dbeta + i, load_some(dbeta + i, m) + load_some(dy + i, m), m);
      });
    if ((r + 1) % kChunk == 0 || r + 1 == g.rows) {
      if (dgamma) flush_sums(dgamma, g.dgamma, n);
      if (dbeta) flush_sums(dbeta, g.dbeta, n);
    }
  }
}

template <class T> void layer_norm_backward(const RowNormBackward* g) { row_norm_backward<T, true>(g); }
template <class T> void rms_norm_backward(const RowNormBackward* g) { row_norm_backward<T, false>(g); }

constexpr NormBackwardKernels kNormBackward = {
    {gradient_moments<float>, gradient_moments<bf16>},
    {normalize_backward<float>, normalize_backward<bf16>},
    {layer_norm_backward<float>, layer_norm_backward<bf16>},
    {rms_norm_backward<float>, rms_norm_backward<bf16>},
};
