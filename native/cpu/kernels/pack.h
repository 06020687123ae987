// Rows of K-contiguous values ↔ panels [k / unit][kPanel][unit]: a transposition in 32-bit units.
#pragma once

/// dst[u * kPanel + j] = unit u of row j; columns of absent rows are zero.
DF_INLINE void interleave(void* dst, const void* src, int64_t row_bytes, int rows, int64_t units) {
  uint32_t* out = static_cast<uint32_t*>(dst);
  const char* in = static_cast<const char*>(src);
  constexpr int64_t kLine = 16;  // units of a cache line: every line of a row is read once
  for (int64_t u0 = 0; u0 < units; u0 += kLine) {
    const int n = int(smaller(kLine, units - u0));
    for (int j = 0; j < rows; j++) {
      const char* p = in + j * row_bytes + u0 * 4;
      for (int u = 0; u < n; u++) out[(u0 + u) * kPanel + j] = read<uint32_t>(p + u * 4);
    }
    for (int u = 0; u < n && rows < kPanel; u++)
      __builtin_memset(out + (u0 + u) * kPanel + rows, 0, size_t(kPanel - rows) * 4);
  }
}

template <class T, class From>
void pack_from(T* dst, const From* src, int64_t row_step, int rows, int64_t in) {
  constexpr int unit = Product<T>::unit;
  constexpr int64_t kChunk = 128;
  alignas(64) T chunk[kPanel][kChunk];
  for (int64_t k = 0; k < in; k += kChunk) {
    const int64_t n = smaller(kChunk, in - k), units = (n + unit - 1) / unit;
    for (int j = 0; j < rows; j++) {
      convert_row(chunk[j], src + j * row_step + k, n);
      for (int64_t i = n; i < units * unit; i++) chunk[j][i] = T{};
    }
    interleave(dst + k * kPanel, chunk, sizeof(chunk[0]), rows, units);
  }
}

template <class T> void pack(void* dst, const void* src, int type, int64_t row_step, int rows, int64_t in) {
  T* out = static_cast<T*>(dst);
  if (type == 0) pack_from(out, static_cast<const float*>(src), row_step, rows, in);
  else if (type == 1) pack_from(out, static_cast<const bf16*>(src), row_step, rows, in);
  else pack_from(out, static_cast<const f16*>(src), row_step, rows, in);
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
