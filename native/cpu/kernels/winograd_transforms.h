// The transforms of Winograd's F(TILE×TILE, 3×3) (Lavin & Gray 2016, section 4; Blahut 2010 for their construction): a
// tile of outputs is Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A of its window d of (TILE + 2)² inputs and the 3×3 weights g.
// Interpolation points are 0, ±q, …, ∞: the pairs share their even and odd parts. They were chosen for the smallest
// rounding error of normal data: that of F(4×4) is 2.2 times smaller than with the usual 0, ±1, ±2, ∞.
#pragma once

constexpr int kTaps = 3;

/// Coefficients for PAIRS pairs of points: row ±q of Bᵀ is x (x ± q) Π (x² - r²) over the other pairs; rows 0 and ∞ are
/// `all` = Π (x² - r²) over all pairs, and x · all. Row ±q of G is (1, ±q, q²); its divisor is part of Aᵀ, where it is
/// multiplied once per tile and output channel.
template <int PAIRS> struct WinogradCoefficients {
  float point[PAIRS] = {};
  float square[PAIRS] = {};
  float others[PAIRS][PAIRS] = {};    // of x⁰, x², …; the last one is 1
  float all[PAIRS + 1] = {};
  float zero_output = 0;              // of Aᵀ, at 0
  float output[PAIRS][2 * PAIRS] = {};  // of Aᵀ, at +q: qᵏ / divisor

  constexpr explicit WinogradCoefficients(const double (&q)[PAIRS]) {
    double product[PAIRS + 1] = {1};
    for (int p = 0; p < PAIRS; p++) multiply(product, q[p]);
    for (int k = 0; k <= PAIRS; k++) all[k] = float(product[k]);
    zero_output = float(1 / product[0]);
    for (int p = 0; p < PAIRS; p++) {
      double rest[PAIRS + 1] = {1}, divisor = 2 * q[p] * q[p];
      for (int r = 0; r < PAIRS; r++) {
        if (r == p) continue;
        multiply(rest, q[r]);
        divisor *= q[p] * q[p] - q[r] * q[r];
      }
      point[p] = float(q[p]);
      square[p] = float(q[p] * q[p]);
      for (int k = 0; k < PAIRS; k++) others[p][k] = float(rest[k]);
      double power = 1;
      for (int k = 0; k < 2 * PAIRS; k++, power *= q[p]) output[p][k] = float(power / divisor);
    }
  }

 private:
  static constexpr void multiply(double (&polynomial)[PAIRS + 1], double r) {
    for (int k = PAIRS; k >= 0; k--) polynomial[k] = (k ? polynomial[k - 1] : 0) - r * r * polynomial[k];
  }
};

template <int TILE> struct Winograd;
template <> struct Winograd<2> {
  static constexpr WinogradCoefficients<1> c{{1}};
};
template <> struct Winograd<4> {
  static constexpr WinogradCoefficients<2> c{{0.625, 1.5}};
};
template <> struct Winograd<8> {
  static constexpr WinogradCoefficients<4> c{{0.4375, 0.8125, 1.25, 2.375}};
};

/// Bᵀ d along one dimension; results `step` apart, in the order of the points: 0, +q, -q, …, ∞.
template <int TILE> DF_INLINE void transform_input(const Vec (&d)[TILE + 2], Vec* out, int step) {
  constexpr int pairs = TILE / 2;
  constexpr const auto& c = Winograd<TILE>::c;
  Vec zero = d[TILE], infinity = d[TILE + 1];
#pragma GCC unroll 4
  for (int k = pairs - 1; k >= 0; k--) {
    zero = fma(set1(c.all[k]), d[2 * k], zero);
    infinity = fma(set1(c.all[k]), d[2 * k + 1], infinity);
  }
  out[0] = zero;
  out[(TILE + 1) * step] = infinity;
#pragma GCC unroll 4
  for (int p = 0; p < pairs; p++) {
    Vec even = d[TILE], odd = d[TILE - 1];
#pragma GCC unroll 4
    for (int k = pairs - 2; k >= 0; k--) {
      even = fma(set1(c.others[p][k]), d[2 * k + 2], even);
      odd = fma(set1(c.others[p][k]), d[2 * k + 1], odd);
    }
    out[(2 * p + 1) * step] = fma(set1(c.point[p]), odd, even);
    out[(2 * p + 2) * step] = fma(set1(-c.point[p]), odd, even);
  }
}

/// Aᵀ m along one dimension; results `step` apart.
template <int TILE> DF_INLINE void transform_output(const Vec (&m)[TILE + 2], Vec* out, int step) {
  constexpr int pairs = TILE / 2;
  constexpr const auto& c = Winograd<TILE>::c;
  Vec even[pairs], odd[pairs];
#pragma GCC unroll 4
  for (int p = 0; p < pairs; p++) {
    even[p] = m[2 * p + 1] + m[2 * p + 2];
    odd[p] = m[2 * p + 1] - m[2 * p + 2];
  }
#pragma GCC unroll 8
  for (int k = 0; k < TILE; k++) {
    const Vec first = k % 2 ? odd[0] : even[0];
    Vec y = set1(c.output[0][k]) * first;
    if (k == 0) y = fma(set1(c.zero_output), m[0], y);
    if (k == TILE - 1) y = fma(set1(c.output[0][k]), first, m[TILE + 1]);
#pragma GCC unroll 4
    for (int p = 1; p < pairs; p++) y = fma(set1(c.output[p][k]), k % 2 ? odd[p] : even[p], y);
    out[k * step] = y;
  }
}

/// G g along one dimension for the two rows of pair `pair`: 0 and ∞ for pair 0, ±q of the others.
template <int TILE> DF_INLINE void transform_weight_pair(int pair, Vec g0, Vec g1, Vec g2, Vec& first, Vec& second) {
  constexpr const auto& c = Winograd<TILE>::c;
  if (pair == 0) {
    first = g0;
    second = g2;
  } else {
    const Vec even = fma(set1(c.square[pair - 1]), g2, g0);
    first = fma(set1(c.point[pair - 1]), g1, even);
    second = fma(set1(-c.point[pair - 1]), g1, even);
  }
}

// The adjoints, for the gradient of the weights (Bᵀ is that of the convolution).

/// A y along one dimension; results `step` apart, in the order of the points.
template <int TILE> DF_INLINE void transform_output_gradient(const Vec (&y)[TILE], Vec* out, int step) {
  constexpr int pairs = TILE / 2;
  constexpr const auto& c = Winograd<TILE>::c;
  out[0] = set1(c.zero_output) * y[0];
  out[(TILE + 1) * step] = y[TILE - 1];
#pragma GCC unroll 4
  for (int p = 0; p < pairs; p++) {
    Vec even = set1(c.output[p][0]) * y[0], odd = set1(c.output[p][1]) * y[1];
#pragma GCC unroll 4
    for (int k = 2; k < TILE; k += 2) {
      even = fma(set1(c.output[p][k]), y[k], even);
      odd = fma(set1(c.output[p][k + 1]), y[k + 1], odd);
    }
    out[(2 * p + 1) * step] = even + odd;
    out[(2 * p + 2) * step] = even - odd;
  }
}

/// Gᵀ u along one dimension.
template <int TILE> DF_INLINE void transform_weight_gradient(const Vec (&u)[TILE + 2], Vec (&g)[kTaps]) {
  constexpr int pairs = TILE / 2;
  constexpr const auto& c = Winograd<TILE>::c;
  g[0] = u[0];
  g[2] = u[TILE + 1];
#pragma GCC unroll 4
  for (int p = 0; p < pairs; p++) {
    const Vec even = u[2 * p + 1] + u[2 * p + 2], odd = u[2 * p + 1] - u[2 * p + 2];
    g[0] = g[0] + even;
    g[1] = p ? fma(set1(c.point[p]), odd, g[1]) : set1(c.point[p]) * odd;
    g[2] = fma(set1(c.square[p]), even, g[2]);
  }
}
