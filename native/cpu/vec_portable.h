// 4 float lanes through the vector extensions of GCC and Clang (SSE2, NEON, …). Included inside the unnamed namespace
// of an instruction set.
#pragma once

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t Mask __attribute__((vector_size(16)));  // all bits of a lane
typedef uint32_t Bits __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kTileRows = 6;     // 12 accumulators, 2 of B, a broadcast and a product fill the 16 registers of SSE2
constexpr int kTileVectors = 2;

DF_INLINE Vec set1(float v) { return Vec{v, v, v, v}; }
DF_INLINE Bits set1_bits(uint32_t v) { return Bits{v, v, v, v}; }

DF_INLINE Vec half_to_float(const f16* p) {
  Vec v;
  for (int i = 0; i < kLanes; i++) {
    const uint32_t h = p[i].bits, magnitude = h & 0x7fff, exponent = magnitude >> 10;
    uint32_t u;
    if (exponent == 0) {
      const float subnormal = float(magnitude) * 0x1p-24f;
      __builtin_memcpy(&u, &subnormal, 4);
    } else {
      u = (magnitude << 13) + (exponent == 31 ? 224u << 23 : 112u << 23);
    }
    u |= (h & 0x8000) << 16;
    v[i] = read<float>(&u);
  }
  return v;
}
DF_INLINE void float_to_half(f16* p, Vec v) {
  for (int i = 0; i < kLanes; i++) {
    const float f = v[i];
    const uint32_t u = read<uint32_t>(&f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    uint32_t h;
    if (a > 0x7f800000u) {
      h = 0x7e00 | ((a >> 13) & 0x1ff);
    } else if (a >= 0x477ff000u) {  // rounds to 65536 or more
      h = 0x7c00;
    } else if (a < 0x38800000u) {   // subnormal: adding 0.5 leaves the value in units of 2^-24 in the low bits, rounded
      const float shifted = read<float>(&a) + 0.5f;
      h = read<uint32_t>(&shifted) - 0x3f000000u;
    } else {
      h = (a + 0xfff + ((a >> 13) & 1) - 0x38000000u) >> 13;
    }
    p[i].bits = uint16_t(sign | h);
  }
}

DF_INLINE Vec load(const float* p) { return read<Vec>(p); }
DF_INLINE Vec load(const bf16* p) { return (Vec)(Bits{p[0].bits, p[1].bits, p[2].bits, p[3].bits} << 16); }
DF_INLINE Vec load(const f16* p) { return half_to_float(p); }
DF_INLINE Vec load(const int8_t* p) { return Vec{float(p[0]), float(p[1]), float(p[2]), float(p[3])}; }
DF_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }
DF_INLINE void store(bf16* p, Vec v) {
  // round to nearest even; a NaN keeps its sign and becomes quiet
  const Bits u = (Bits)v, high = u >> 16, rounded = (u + 0x7fff + (high & 1)) >> 16;
  const Bits nan = (Bits)(v != v), r = (nan & (high | 0x40)) | (~nan & rounded);
  for (int i = 0; i < kLanes; i++) p[i].bits = uint16_t(r[i]);
}
DF_INLINE void store(f16* p, Vec v) { float_to_half(p, v); }
/// The first n lanes; the others are zero and are not read.
template <class T> DF_INLINE Vec load_n(const T* p, int n) {
  T lanes[kLanes] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return load(lanes);
}
template <class T> DF_INLINE void store_n(T* p, Vec v, int n) {
  T lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < n; i++) p[i] = lanes[i];
}
/// The pairs (first[i], second[i]), rounded.
DF_INLINE void store_pairs(bf16* p, Vec first, Vec second) {
  bf16 lanes[2][kLanes];
  store(lanes[0], first);
  store(lanes[1], second);
  for (int i = 0; i < kLanes; i++) p[2 * i] = lanes[0][i], p[2 * i + 1] = lanes[1][i];
}

DF_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
/// a * b, rounded: the compiler cannot see it and fuse it with an addition.
DF_INLINE Vec rounded_product(Vec a, Vec b) {
  Vec p = a * b;
#if defined(__x86_64__)
  __asm__("" : "+x"(p));
#elif defined(__aarch64__)
  __asm__("" : "+w"(p));
#else
  __asm__("" : "+m"(p));
#endif
  return p;
}
DF_INLINE Vec square_root(Vec v) {
  return Vec{__builtin_sqrtf(v[0]), __builtin_sqrtf(v[1]), __builtin_sqrtf(v[2]), __builtin_sqrtf(v[3])};
}
DF_INLINE Mask less(Vec a, Vec b) { return a < b; }
DF_INLINE Vec select(Mask m, Vec yes, Vec no) { return (Vec)((m & (Mask)yes) | (~m & (Mask)no)); }
/// A NaN in `b` comes through; a NaN in `a` gives `b`.
DF_INLINE Vec maximum(Vec a, Vec b) { return select(b < a, a, b); }
DF_INLINE Vec minimum(Vec a, Vec b) { return select(a < b, a, b); }
DF_INLINE Mask nonzero(const int32_t* p, int n) {
  Mask lanes = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i] ? -1 : 0;
  return lanes;
}
DF_INLINE Vec absolute(Vec v) { return (Vec)((Bits)v & 0x7fffffffu); }
/// For |v| < 2^22: adding and subtracting 1.5 * 2^23 rounds to nearest even.
DF_INLINE Vec round_to_integer(Vec v) { return (v + 0x1.8p23f) - 0x1.8p23f; }
/// v * 2^n for an integral n in [-250, 250]: in two factors, so that 2^n itself need not be a normal number.
DF_INLINE Vec scale_by_power(Vec v, Vec n) {
  // the integer is in the low bits of 1.5 * 2^23 + n
  const Mask i = (Mask)(n + 0x1.8p23f) - 0x4b400000, first = i >> 1, second = i - first;
  return v * (Vec)((first + 127) << 23) * (Vec)((second + 127) << 23);
}
DF_INLINE Vec reciprocal(Vec v) { return 1.f / v; }
/// v² = result + error: the upper 12 bits have an exact square.
DF_INLINE Vec square(Vec v, Vec& error) {
  const Vec high = (Vec)((Bits)v & 0xfffff000u);
  error = (v - high) * (v + high);
  return high * high;
}
DF_INLINE float sum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
DF_INLINE float largest(Vec v) {
  const float a = v[0] < v[2] ? v[2] : v[0], b = v[1] < v[3] ? v[3] : v[1];
  return a < b ? b : a;
}

/// The first or second elements of 4 pairs, as floats.
DF_INLINE Vec load_half(const bf16* p, int half) {
  const Bits v = read<Bits>(p);
  return (Vec)(half ? v & 0xffff0000u : v << 16);
}

/// How a panel is multiplied: `unit` consecutive k per 32-bit lane. Without an instruction for pairs (`widens`) b gives
/// one half of every pair as floats and the rows are widened before. `widen` is b of an int8 panel, also stored at `wide`.
template <class T> struct Product;
template <> struct Product<float> {
  static constexpr int unit = 1;
  static constexpr bool widens = false;
  static DF_INLINE Vec a(const float* p) { return set1(*p); }
  static DF_INLINE Vec b(const float* p) { return load(p); }
  static DF_INLINE Vec widen(const int8_t* p, float* wide) {
    const Vec v = load(p);
    store(wide, v);
    return v;
  }
  static DF_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
};
template <> struct Product<bf16> {
  static constexpr int unit = 2;
  static constexpr bool widens = true;
  static DF_INLINE Vec b(const bf16* p, int half) { return load_half(p, half); }
};
