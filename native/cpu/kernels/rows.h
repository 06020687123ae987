// Runs of contiguous values as vectors, with a partial one at the end.
#pragma once

/// Calls body(i, n) for vectors of n = kLanes values, then for the rest.
template <class F> DF_INLINE void for_vectors(int64_t n, const F& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, int(n - i));
}
template <class T> DF_INLINE Vec load_some(const T* p, int n) { return n == kLanes ? load(p) : load_n(p, n); }
template <class T> DF_INLINE void store_some(T* p, Vec v, int n) {
  if (n == kLanes) store(p, v);
  else store_n(p, v, n);
}
/// Writes a gradient, or adds it to what is there and rounds once.
template <class T> DF_INLINE void store_gradient(T* p, int add, Vec v, int n) {
  store_some(p, add ? load_some(p, n) + v : v, n);
}

template <class To, class From> DF_INLINE void convert_row(To* y, const From* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(x + i));
  if (i < n) store_n(y + i, load_n(x + i, int(n - i)), int(n - i));
}
