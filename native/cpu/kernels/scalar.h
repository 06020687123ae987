// Included inside the unnamed namespace of an instruction set (see kernels/all.h).
#pragma once

#define DF_INLINE inline __attribute__((always_inline))
#define DF_LAMBDA_INLINE __attribute__((always_inline))

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

enum ActivationKind { kNone, kSilu, kGelu, kGeluTanh };  // = df::Activation

template <class T> DF_INLINE T read(const void* p) {
  T v;
  __builtin_memcpy(&v, p, sizeof(T));
  return v;
}

template <class T> DF_INLINE T smaller(T a, T b) { return b < a ? b : a; }
