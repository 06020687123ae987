// 8 float lanes on AVX2 + FMA + F16C. Included inside the unnamed namespace of an instruction set.
#pragma once

typedef __m256 Vec;
typedef __m256 Mask;  // all bits of a lane
constexpr int kLanes = 8;
constexpr int kTileRows = 6;     // 12 accumulators, 2 of B and 2 broadcasts fill the 16 registers
constexpr int kTileVectors = 2;

DF_INLINE Vec set1(float v) { return _mm256_set1_ps(v); }

DF_INLINE Vec widen_bf16(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
DF_INLINE __m128i narrow_bf16(Vec v) {
  // round to nearest even; a NaN keeps its sign and becomes quiet
  const __m256i u = _mm256_castps_si256(v), high = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i r = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

DF_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
DF_INLINE Vec load(const bf16* p) { return widen_bf16(_mm_loadu_si128((const __m128i*)p)); }
DF_INLINE Vec load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
DF_INLINE Vec load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
DF_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
DF_INLINE void store(bf16* p, Vec v) { _mm_storeu_si128((__m128i*)p, narrow_bf16(v)); }
DF_INLINE void store(f16* p, Vec v) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(v, 0)); }
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
  const __m256i high = _mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow_bf16(second)), 16);
  _mm256_storeu_si256((__m256i*)p, _mm256_or_si256(_mm256_cvtepu16_epi32(narrow_bf16(first)), high));
}

DF_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
/// a * b, rounded: the compiler cannot see it and fuse it with an addition.
DF_INLINE Vec rounded_product(Vec a, Vec b) {
  Vec p = a * b;
  __asm__("" : "+x"(p));
  return p;
}
DF_INLINE Vec square_root(Vec v) { return _mm256_sqrt_ps(v); }
/// A NaN in `b` comes through; a NaN in `a` gives `b`.
DF_INLINE Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }
DF_INLINE Vec minimum(Vec a, Vec b) { return _mm256_min_ps(a, b); }
DF_INLINE Mask less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
DF_INLINE Vec select(Mask m, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, m); }
DF_INLINE Mask nonzero(const int32_t* p, int n) {
  int32_t lanes[kLanes] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i] ? -1 : 0;
  return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i*)lanes));
}
DF_INLINE Vec absolute(Vec v) { return _mm256_andnot_ps(set1(-0.f), v); }
DF_INLINE Vec round_to_integer(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/// v * 2^n for an integral n in [-250, 250]: in two factors, so that 2^n itself need not be a normal number.
DF_INLINE Vec scale_by_power(Vec v, Vec n) {
  const __m256i i = _mm256_cvtps_epi32(n), first = _mm256_srai_epi32(i, 1), second = _mm256_sub_epi32(i, first);
  const __m256i bias = _mm256_set1_epi32(127);
  return v * _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(first, bias), 23)) *
         _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(second, bias), 23));
}
DF_INLINE Vec reciprocal(Vec v) { return set1(1.f) / v; }
/// v² = result + error.
DF_INLINE Vec square(Vec v, Vec& error) {
  const Vec s = v * v;
  error = _mm256_fmsub_ps(v, v, s);
  return s;
}
DF_INLINE float sum(Vec v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
DF_INLINE float largest(Vec v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/// The first or second elements of 8 pairs, as floats.
DF_INLINE Vec load_half(const bf16* p, int half) {
  const __m256i v = _mm256_load_si256((const __m256i*)p);
  return _mm256_castsi256_ps(half ? _mm256_and_si256(v, _mm256_set1_epi32(int(0xffff0000u)))
                                  : _mm256_slli_epi32(v, 16));
}

/// How a panel is multiplied: `unit` consecutive k per 32-bit lane. Without an instruction for pairs (`widens`) b gives
/// one half of every pair as floats and the rows are widened before. `widen` is b of an int8 panel, also stored at `wide`.
template <class T> struct Product;
template <> struct Product<float> {
  static constexpr int unit = 1;
  static constexpr bool widens = false;
  static DF_INLINE Vec a(const float* p) { return _mm256_broadcast_ss(p); }
  static DF_INLINE Vec b(const float* p) { return _mm256_load_ps(p); }
  static DF_INLINE Vec widen(const int8_t* p, float* wide) {
    const Vec v = load(p);
    _mm256_store_ps(wide, v);
    return v;
  }
  static DF_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
};
template <> struct Product<bf16> {
  static constexpr int unit = 2;
  static constexpr bool widens = true;
  static DF_INLINE Vec b(const bf16* p, int half) { return load_half(p, half); }
};
