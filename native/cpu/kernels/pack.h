// Rows of K-contiguous values ↔ panels [k / unit][kPanel][unit]: a transposition in 32-bit units.
#pragma once

/// dst[u * kPanel + j] = unit u of row j, columns of absent rows are zero. load(j, u, n): the n <= kLanes units from u on
/// of row j, zeros behind them.
template <class Load> DF_INLINE void interleave_rows(float* dst, int rows, int64_t units, const Load& load) {
  for (int first = 0; first < kPanel; first += kLanes)
    for (int64_t u = 0; u < units; u += kLanes) {
      Vec v[kLanes];
      const int n = int(smaller<int64_t>(kLanes, units - u));
      if (first + kLanes <= rows && n == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) v[i] = load(first + i, u, kLanes);
      } else {
        for (int i = 0; i < kLanes; i++) v[i] = first + i < rows ? load(first + i, u, n) : set1(0);
      }
      transpose(v);
      float* out = dst + u * kPanel + first;
      if (n == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) store(out + i * kPanel, v[i]);
      } else {
        for (int i = 0; i < n; i++) store(out + i * kPanel, v[i]);
      }
    }
}

/// The same for rows of whole units, row_bytes apart.
DF_INLINE void interleave(void* dst, const void* src, int64_t row_bytes, int rows, int64_t units) {
  interleave_rows(static_cast<float*>(dst), rows, units, [&](int j, int64_t u, int n) DF_LAMBDA_INLINE {
    const char* p = static_cast<const char*>(src) + j * row_bytes + u * 4;
    if (n == kLanes) return read<Vec>(p);
    Vec v = set1(0);
    __builtin_memcpy(&v, p, size_t(n) * 4);
    return v;
  });
}

template <class T, class From>
void pack_from(T* dst, const From* src, int64_t row_step, int rows, int64_t in) {
  constexpr int unit = Product<T>::unit;
  interleave_rows(reinterpret_cast<float*>(dst), rows, (in + unit - 1) / unit, [&](int j, int64_t u, int n) DF_LAMBDA_INLINE {
    const int64_t k = u * unit, left = in - k;
    const From* p = src + j * row_step + k;
    if constexpr (unit == 1) {
      return load_some(p, n);
    } else {
      if (left >= 2 * kLanes) return narrow_both(load(p), load(p + kLanes));
      const int low = int(smaller<int64_t>(kLanes, left));
      return narrow_both(load_some(p, low), left > kLanes ? load_some(p + kLanes, int(left) - kLanes) : set1(0));
    }
  });
}

template <class T> void pack(void* dst, const void* src, int type, int64_t row_step, int rows, int64_t in) {
  T* out = static_cast<T*>(dst);
  if (type == 0) pack_from(out, static_cast<const float*>(src), row_step, rows, in);
  else if (type == 1) pack_from(out, static_cast<const bf16*>(src), row_step, rows, in);
  else pack_from(out, static_cast<const f16*>(src), row_step, rows, in);
}

/// Rows [begin, end) of a plain weight, whole units, into the panels of its transpose: its outputs are their K.
template <class T, class From>
void pack_transposed_from(const TransposedPack& p, const From* plain, int64_t begin, int64_t end) {
  constexpr int unit = Product<T>::unit;
  const int64_t block = (p.out + unit - 1) / unit * unit * kPanel;
  for (int64_t tap = 0; tap < p.taps; tap++)
    for (int64_t column = 0; column < p.in; column += kPanel) {
      T* dst = static_cast<T*>(p.packed) + (column / kPanel * p.taps + p.taps - 1 - tap) * block;
      for (int64_t o = begin; o < end; o += unit) {
        const From* row = plain + (o * p.taps + tap) * p.row_step + column;
        const From* next = o + 1 < p.out ? row + p.taps * p.row_step : nullptr;
        T* out = dst + o * kPanel;
        const auto put = [&](int c, int n) DF_LAMBDA_INLINE {
          const Vec first = load_some(row + c, n);
          if constexpr (unit == 1) store(out + c, first);
          else store_pairs(out + 2 * c, first, next ? load_some(next + c, n) : set1(0));
        };
        if (column + kPanel <= p.in) {
#pragma GCC unroll 4
          for (int c = 0; c < kPanel; c += kLanes) put(c, kLanes);
        } else {
          for (int c = 0; c < kPanel; c += kLanes)
            put(c, int(smaller<int64_t>(kLanes, p.in - column < c ? 0 : p.in - column - c)));
        }
      }
    }
}

template <class T> void pack_transposed(const TransposedPack* p, int64_t begin, int64_t end) {
  if (p->type == 0) pack_transposed_from<T>(*p, static_cast<const float*>(p->plain), begin, end);
  else if (p->type == 1) pack_transposed_from<T>(*p, static_cast<const bf16*>(p->plain), begin, end);
  else pack_transposed_from<T>(*p, static_cast<const f16*>(p->plain), begin, end);
}

template <class T, class To>
void unpack_to(To* dst, int64_t row_step, int rows, int64_t in, const T* src) {
  constexpr int unit = Product<T>::unit;
  constexpr int64_t kChunk = 128;
  T chunk[kChunk];
  for (int j = 0; j < rows; j++)
    for (int64_t k = 0; k < in; k += kChunk) {
      const int64_t n = smaller(kChunk, in - k);
      for (int64_t i = 0; i < n; i++) chunk[i] = src[((k + i) / unit * kPanel + j) * unit + (k + i) % unit];
      convert_row(dst + j * row_step + k, chunk, n);
    }
}

template <class T> void unpack(void* dst, int type, int64_t row_step, int rows, int64_t in, const void* src) {
  const T* from = static_cast<const T*>(src);
  if (type == 0) unpack_to(static_cast<float*>(dst), row_step, rows, in, from);
  else if (type == 1) unpack_to(static_cast<bf16*>(dst), row_step, rows, in, from);
  else unpack_to(static_cast<f16*>(dst), row_step, rows, in, from);
}
