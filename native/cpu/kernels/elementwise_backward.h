// Gradients of the elementwise kernels over n contiguous values.
#pragma once

template <class T, int KIND>
void activation_backward_of(T* dx, int add, const T* dy, const T* x, int64_t n) {
  for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
    const Vec g = load_some(dy + i, m) * activation_derivative<KIND>(load_some(x + i, m));
    store_gradient(dx + i, add, g, m);
  });
}
template <class T> void activation_backward(void* dx, int add, const void* dy, const void* x, int64_t n, int kind) {
  T* out = static_cast<T*>(dx);
  const T *g = static_cast<const T*>(dy), *in = static_cast<const T*>(x);
  switch (kind) {
    case kSilu: return activation_backward_of<T, kSilu>(out, add, g, in, n);
    case kGelu: return activation_backward_of<T, kGelu>(out, add, g, in, n);
    case kGeluTanh: return activation_backward_of<T, kGeluTanh>(out, add, g, in, n);
    default: return activation_backward_of<T, kNone>(out, add, g, in, n);
  }
}

template <class T, int KIND>
void gated_backward_of(T* dgate, int add_gate, T* dup, int add_up, const T* dy, const T* gate, const T* up, int64_t n) {
  for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
    const Vec g = load_some(dy + i, m), x = load_some(gate + i, m);
    if (dgate) store_gradient(dgate + i, add_gate, g * load_some(up + i, m) * activation_derivative<KIND>(x), m);
    if (dup) store_gradient(dup + i, add_up, g * activate<KIND>(x), m);
  });
}
template <class T>
void gated_activation_backward(void* dgate, int add_gate, void* dup, int add_up, const void* dy, const void* gate,
                               const void* up, int64_t n, int kind) {
  T *g_out = static_cast<T*>(dgate), *u_out = static_cast<T*>(dup);
  const T *d = static_cast<const T*>(dy), *g = static_cast<const T*>(gate), *u = static_cast<const T*>(up);
  switch (kind) {
    case kSilu: return gated_backward_of<T, kSilu>(g_out, add_gate, u_out, add_up, d, g, u, n);
    case kGelu: return gated_backward_of<T, kGelu>(g_out, add_gate, u_out, add_up, d, g, u, n);
    case kGeluTanh: return gated_backward_of<T, kGeluTanh>(g_out, add_gate, u_out, add_up, d, g, u, n);
    default: return gated_backward_of<T, kNone>(g_out, add_gate, u_out, add_up, d, g, u, n);
  }
}

template <class To, class From> void scale_backward(void* dx, int add, float a, const void* dy, int64_t n) {
  To* out = static_cast<To*>(dx);
  const From* g = static_cast<const From*>(dy);
  for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
    store_gradient(out + i, add, set1(a) * load_some(g + i, m), m);
  });
}

template <class T> void sum4(void* dx, int add, const void* const* dy, int64_t n) {
  const T *a = static_cast<const T*>(dy[0]), *b = static_cast<const T*>(dy[1]);
  const T *c = static_cast<const T*>(dy[2]), *d = static_cast<const T*>(dy[3]);
  T* out = static_cast<T*>(dx);
  for_vectors(n, [&](int64_t i, int m) DF_LAMBDA_INLINE {
    const Vec s = (load_some(a + i, m) + load_some(b + i, m)) + (load_some(c + i, m) + load_some(d + i, m));
    store_gradient(out + i, add, s, m);
  });
}

constexpr ElementwiseBackwardKernels kElementwiseBackward = {
    {activation_backward<float>, activation_backward<bf16>},
    {gated_activation_backward<float>, gated_activation_backward<bf16>},
    {{scale_backward<float, float>, scale_backward<float, bf16>},
     {scale_backward<bf16, float>, scale_backward<bf16, bf16>}},
    {sum4<float>, sum4<bf16>},
};
