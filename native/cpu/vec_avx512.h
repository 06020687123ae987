// 16 float lanes on AVX-512 (F, BW, DQ, VL); bf16 products and conversions use AVX512_BF16 where the file is compiled
// with it. Included inside the unnamed namespace of an instruction set.
#pragma once

typedef __m512 Vec;
typedef __mmask16 Mask;
constexpr int kLanes = 16;
constexpr int kTileRows = 6;     // 24 accumulators, 4 of B and 2 broadcasts fill the 32 registers
constexpr int kTileVectors = 4;  // every IF width is a multiple of 64

DF_INLINE Vec set1(float v) { return _mm512_set1_ps(v); }
DF_INLINE Mask first_lanes(int n) { return Mask((1u << n) - 1); }

DF_INLINE Vec widen_bf16(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
DF_INLINE __m256i narrow_bf16(Vec v) {
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(v);
#else
  // round to nearest even; a NaN keeps its sign and becomes quiet
  const __m512i u = _mm512_castps_si512(v), high = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
#endif
}

DF_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
DF_INLINE Vec load(const bf16* p) { return widen_bf16(_mm256_loadu_si256((const __m256i*)p)); }
DF_INLINE Vec load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
DF_INLINE Vec load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
DF_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
DF_INLINE void store(bf16* p, Vec v) { _mm256_storeu_si256((__m256i*)p, narrow_bf16(v)); }
DF_INLINE void store(f16* p, Vec v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(v, 0)); }
/// The first n lanes; the others are zero and are not read.
DF_INLINE Vec load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
DF_INLINE Vec load_n(const bf16* p, int n) { return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
DF_INLINE Vec load_n(const f16* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
DF_INLINE void store_n(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
DF_INLINE void store_n(bf16* p, Vec v, int n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_bf16(v)); }
DF_INLINE void store_n(f16* p, Vec v, int n) { _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtps_ph(v, 0)); }
/// The pairs (first[i], second[i]), rounded.
DF_INLINE void store_pairs(bf16* p, Vec first, Vec second) {
#ifdef __AVX512BF16__
  static const uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                     8,  24, 9,  25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  _mm512_storeu_si512((void*)p, _mm512_permutexvar_epi16(_mm512_loadu_si512(order), both));
#else
  const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow_bf16(second)), 16);
  _mm512_storeu_si512((void*)p, _mm512_or_si512(_mm512_cvtepu16_epi32(narrow_bf16(first)), high));
#endif
}

DF_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
/// a * b, rounded: the compiler cannot see it and fuse it with an addition.
DF_INLINE Vec rounded_product(Vec a, Vec b) {
  Vec p = a * b;
  __asm__("" : "+v"(p));
  return p;
}
DF_INLINE Vec square_root(Vec v) { return _mm512_sqrt_ps(v); }
/// A NaN in `b` comes through; a NaN in `a` gives `b`.
DF_INLINE Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
DF_INLINE Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a, b); }
DF_INLINE Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
DF_INLINE Vec select(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_ps(m, no, yes); }
DF_INLINE Mask nonzero(const int32_t* p, int n) {
  const __m512i v = _mm512_maskz_loadu_epi32(first_lanes(n), p);
  return _mm512_test_epi32_mask(v, v);
}
DF_INLINE Vec absolute(Vec v) { return _mm512_abs_ps(v); }
DF_INLINE Vec round_to_integer(Vec v) { return _mm512_roundscale_ps(v, 8); }
/// v * 2^n for an integral n.
DF_INLINE Vec scale_by_power(Vec v, Vec n) { return _mm512_scalef_ps(v, n); }
DF_INLINE Vec reciprocal(Vec v) {
  const Vec r = _mm512_rcp14_ps(v);
  return r * _mm512_fnmadd_ps(v, r, set1(2.f));  // one Newton step: 14 → 24 bits
}
/// v² = result + error.
DF_INLINE Vec square(Vec v, Vec& error) {
  const Vec s = v * v;
  error = _mm512_fmsub_ps(v, v, s);
  return s;
}
DF_INLINE float sum(Vec v) { return _mm512_reduce_add_ps(v); }
DF_INLINE float largest(Vec v) { return _mm512_reduce_max_ps(v); }

/// The first or second elements of 16 pairs, as floats.
DF_INLINE Vec load_half(const bf16* p, int half) {
  const __m512i v = _mm512_load_si512((const void*)p);
  return _mm512_castsi512_ps(half ? _mm512_and_si512(v, _mm512_set1_epi32(int(0xffff0000u)))
                                  : _mm512_slli_epi32(v, 16));
}

/// How a panel is multiplied: `unit` consecutive k per 32-bit lane. Without an instruction for pairs (`widens`) b gives
/// one half of every pair as floats and the rows are widened before. `widen` is b of an int8 panel, also stored at `wide`.
template <class T> struct Product;
template <> struct Product<float> {
  static constexpr int unit = 1;
  static constexpr bool widens = false;
  static DF_INLINE Vec a(const float* p) { return _mm512_set1_ps(*p); }
  static DF_INLINE Vec b(const float* p) { return _mm512_load_ps(p); }
  static DF_INLINE Vec widen(const int8_t* p, float* wide) {
    const Vec v = load(p);
    _mm512_store_ps(wide, v);
    return v;
  }
  static DF_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
};
template <> struct Product<bf16> {
  static constexpr int unit = 2;
#ifdef __AVX512BF16__
  static constexpr bool widens = false;
  static DF_INLINE Vec a(const bf16* p) { return _mm512_castsi512_ps(_mm512_set1_epi32(read<int>(p))); }
  static DF_INLINE Vec b(const bf16* p) { return _mm512_castsi512_ps(_mm512_load_si512((const void*)p)); }
  static DF_INLINE Vec widen(const int8_t* p, bf16* wide) {
    const __m512i v = (__m512i)_mm512_cvtne2ps_pbh(load(p + kLanes), load(p));
    _mm512_store_si512((void*)wide, v);
    return _mm512_castsi512_ps(v);
  }
  static DF_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
#else
  static constexpr bool widens = true;
  static DF_INLINE Vec b(const bf16* p, int half) { return load_half(p, half); }
#endif
};
