// exp, Φ and the activations on vectors. NaN comes out of every function that a NaN went into.
#pragma once

/// exp(x + low), |low| < 0.1, relative error about 1e-7 (Cody–Waite reduction, Taylor-like polynomial of degree 7
/// fitted on ±ln2/2). Zero below about -104, infinity above 89.
DF_INLINE Vec exponential(Vec x, Vec low) {
  x = minimum(set1(89.f), maximum(set1(-110.f), x));
  const Vec n = round_to_integer(x * set1(1.44269504f));
  Vec r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r) + low;
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r * r, r);
  return scale_by_power(p + set1(1.f), n);
}
DF_INLINE Vec exponential(Vec x) { return exponential(x, set1(0)); }

/// 2^x for what is rounded to bfloat16 next: relative error 2.7e-6 (degree 4 fitted on ±1/2). Zero below -149.
DF_INLINE Vec coarse_power_of_two(Vec x) {
  x = maximum(set1(-160.f), x);
  const Vec n = round_to_integer(x), r = x - n;
  Vec p = set1(9.57010143e-3f);
  p = fma(p, r, set1(5.59178603e-2f));
  p = fma(p, r, set1(2.40247448e-1f));
  p = fma(p, r, set1(6.93121815e-1f));
  p = fma(p, r, set1(9.99999261e-1f));
  return scale_by_power(p, n);
}

/// Φ(-|x|) = gaussian * tail, gaussian = exp(-x²/2), with a small relative error of both.
struct NormalTail {
  Vec magnitude;  // |x|, at most 14
  Vec gaussian, tail;
  Mask vanishes;  // Φ(-|x|) is below the smallest normal float
};

/// Φ(-|x|) = exp(-x²/2) P(t), t = (|x|-4)/(|x|+4), P fitted to erfcx/2 on [0, 13.5] (relative error 2.4e-7).
DF_INLINE NormalTail normal_tail(Vec x) {
  const Vec ax = minimum(set1(14.f), absolute(x)), k = set1(4.f);
  const Vec t = (ax - k) * reciprocal(ax + k);
  Vec p = set1(-6.733917689e-05f);
  p = fma(p, t, set1(-1.714661048e-04f));
  p = fma(p, t, set1(6.575444131e-04f));
  p = fma(p, t, set1(5.047831801e-04f));
  p = fma(p, t, set1(-8.497394621e-03f));
  p = fma(p, t, set1(3.086503595e-02f));
  p = fma(p, t, set1(-7.170683891e-02f));
  p = fma(p, t, set1(1.243792325e-01f));
  p = fma(p, t, set1(-1.703977436e-01f));
  p = fma(p, t, set1(9.441064298e-02f));
  Vec error;  // of the rounded square; exp would amplify it 100-fold
  const Vec s = square(ax, error), half = set1(-0.5f);
  return {ax, exponential(s * half, error * half), p, less(set1(13.1f), ax)};
}

/// Φ(x) = (1 + erf(x/√2)) / 2 with a small relative error in the negative tail too, where 1 + erf would cancel.
DF_INLINE Vec normal_cdf(Vec x) {
  const NormalTail n = normal_tail(x);
  const Vec q = select(n.vanishes, set1(0), n.gaussian * n.tail);
  return select(less(set1(0), x), set1(1.f) - q, q);
}

template <int KIND> struct ActivationConstant {
  static constexpr int value = KIND;
};
/// Calls body(k), k.value being `kind` as a constant.
template <class F> DF_INLINE void with_activation(int kind, const F& body) {
  switch (kind) {
    case kSilu: return body(ActivationConstant<kSilu>());
    case kGelu: return body(ActivationConstant<kGelu>());
    case kGeluTanh: return body(ActivationConstant<kGeluTanh>());
    default: return body(ActivationConstant<kNone>());
  }
}

template <int KIND> DF_INLINE Vec activate(Vec x) {
  if constexpr (KIND == kSilu) return x / (set1(1.f) + exponential(set1(0) - x));
  if constexpr (KIND == kGelu) return x * normal_cdf(x);
  if constexpr (KIND == kGeluTanh) {  // x/2 (1 + tanh u) = x / (1 + exp(-2u)), u = √(2/π) (x + 0.044715 x³)
    const Vec minus_2u = x * fma(x * x, set1(-0.0713548163f), set1(-1.5957691216f));
    return x / (set1(1.f) + exponential(minus_2u));
  }
  return x;
}

/// σ(z) + a·σ(z)·(1 - σ(z)), σ(z) = 1 / (1 + exp(-z)), for z and a of one sign, given as magnitudes; the smaller of
/// σ and 1 - σ is computed directly, so that it does not cancel.
DF_INLINE Vec gated_slope(Mask positive, Vec z, Vec a) {
  const Vec e = exponential(set1(0) - z), r = reciprocal(set1(1.f) + e), small = e * r;
  return select(positive, fma(a * small, r, r), small * fma(set1(0) - a, r, set1(1.f)));
}

/// The derivative of `activate`; at ±infinity 1 and 0. Error relative to the larger of its two terms (they cancel near
/// the minimum of the activation only), on [-13, 13]: SiLU and GELU 3.4e-7, GeluTanh 1.3e-5 in its negative tail (2.4e-7
/// absolutely).
template <int KIND> DF_INLINE Vec activation_derivative(Vec x) {
  const Mask positive = less(set1(0), x);
  if constexpr (KIND == kSilu) {
    const Vec ax = minimum(set1(110.f), absolute(x));
    return gated_slope(positive, ax, ax);
  }
  if constexpr (KIND == kGelu) {  // Φ(x) + x exp(-x²/2) / √(2π)
    const NormalTail n = normal_tail(x);
    const Vec r = n.gaussian * fma(n.magnitude, set1(-0.398942280f), n.tail);
    const Vec q = select(n.vanishes, set1(0), r);
    return select(positive, set1(1.f) - q, q);
  }
  if constexpr (KIND == kGeluTanh) {  // of x σ(2u): σ + x · 2u' · σ(1 - σ)
    const Vec ax = minimum(set1(14.f), absolute(x)), xx = ax * ax;
    const Vec z = ax * fma(xx, set1(0.0713548163f), set1(1.5957691216f));
    return gated_slope(positive, z, ax * fma(xx, set1(0.2140644488f), set1(1.5957691216f)));
  }
  return set1(1.f);
}
