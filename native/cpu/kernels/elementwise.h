// Elementwise kernels over n contiguous values.
#pragma once

template <class T, int KIND> void activation_of(T* y, const T* x, int64_t n) {
  for_vectors(n, [&](int64_t i, int m) { store_some(y + i, activate<KIND>(load_some(x + i, m)), m); });
}
template <class T> void activation(void* y, const void* x, int64_t n, int kind) {
  T* out = static_cast<T*>(y);
  const T* in = static_cast<const T*>(x);
  switch (kind) {
    case kSilu: return activation_of<T, kSilu>(out, in, n);
    case kGelu: return activation_of<T, kGelu>(out, in, n);
    case kGeluTanh: return activation_of<T, kGeluTanh>(out, in, n);
    default: return activation_of<T, kNone>(out, in, n);
  }
}

template <class T, int KIND> void gated_of(T* y, const T* gate, const T* up, int64_t n) {
  for_vectors(n, [&](int64_t i, int m) {
    store_some(y + i, activate<KIND>(load_some(gate + i, m)) * load_some(up + i, m), m);
  });
}
template <class T> void gated_activation(void* y, const void* gate, const void* up, int64_t n, int kind) {
  T* out = static_cast<T*>(y);
  const T *g = static_cast<const T*>(gate), *u = static_cast<const T*>(up);
  switch (kind) {
    case kSilu: return gated_of<T, kSilu>(out, g, u, n);
    case kGelu: return gated_of<T, kGelu>(out, g, u, n);
    case kGeluTanh: return gated_of<T, kGeluTanh>(out, g, u, n);
    default: return gated_of<T, kNone>(out, g, u, n);
  }
}

template <class Y, class X, class Z> void axpby(void* y, float a, const void* x, float b, const void* z, int64_t n) {
  Y* out = static_cast<Y*>(y);
  const X* p = static_cast<const X*>(x);
  const Z* q = static_cast<const Z*>(z);
  for_vectors(n, [&](int64_t i, int m) {
    store_some(out + i, fma(set1(a), load_some(p + i, m), set1(b) * load_some(q + i, m)), m);
  });
}

template <class To, class From> void convert(void* y, const void* x, int64_t n) {
  convert_row(static_cast<To*>(y), static_cast<const From*>(x), n);
}

template <class T> int all_finite(const void* x, int64_t n) {
  const T* p = static_cast<const T*>(x);
  Vec total = set1(0);  // 0 * infinity and 0 * NaN are NaN, which stays
  for_vectors(n, [&](int64_t i, int m) { total = fma(load_some(p + i, m), set1(0), total); });
  return sum(total) == 0;
}

template <class T> void average4(void* y, const void* const* x, int64_t n) {
  const T *a = static_cast<const T*>(x[0]), *b = static_cast<const T*>(x[1]);
  const T *c = static_cast<const T*>(x[2]), *d = static_cast<const T*>(x[3]);
  T* out = static_cast<T*>(y);
  for_vectors(n, [&](int64_t i, int m) {
    const Vec s = (load_some(a + i, m) + load_some(b + i, m)) + (load_some(c + i, m) + load_some(d + i, m));
    store_some(out + i, s * set1(0.25f), m);
  });
}
