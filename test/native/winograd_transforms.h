// The forms of Winograd's 3×3 convolutions and bounds of their intermediate values, for the tolerances of their tests.
#pragma once
#include <cmath>
#include <vector>

#include "ops/types.h"

namespace df::test {

/// F(tile×tile, 3×3).
struct WinogradTransform {
  ConvAlgorithm algorithm;
  const char* name;
  int tile;                    // outputs of one dimension
  std::vector<double> points;  // q of 0, ±q, …, ∞
  bool rounds;                 // what is multiplied is rounded to bfloat16
  int window() const { return tile + 2; }
  int positions() const { return window() * window(); }
};
const WinogradTransform kWinogradTransforms[] = {
    {ConvAlgorithm::WinogradF4, "f4", 4, {0.625, 1.5}, false},
    {ConvAlgorithm::WinogradF8, "f8", 8, {0.4375, 0.8125, 1.25, 2.375}, false},
    {ConvAlgorithm::WinogradF2Bf16, "f2-bf16", 2, {1}, true},
    {ConvAlgorithm::WinogradF4Bf16, "f4-bf16", 4, {0.625, 1.5}, true}};

/// A matrix, row-major.
struct Matrix {
  int rows, columns;
  std::vector<double> values;
  Matrix(int r, int c) : rows(r), columns(c), values(size_t(r * c)) {}
  double& operator()(int i, int j) { return values[size_t(i * columns + j)]; }
  double operator()(int i, int j) const { return values[size_t(i * columns + j)]; }
  Matrix transposed() const {
    Matrix t(columns, rows);
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < columns; j++) t(j, i) = (*this)(i, j);
    return t;
  }
};

/// Magnitudes of the transforms (Lavin & Gray 2016; Blahut's construction): Bᵀ, G, Aᵀ.
struct WinogradMagnitudes {
  Matrix b, g, a;
  explicit WinogradMagnitudes(const WinogradTransform& form)
      : b(form.window(), form.window()), g(form.window(), 3), a(form.tile, form.window()) {
    const int n = form.window(), last = n - 1;
    std::vector<double> q{0};
    for (double point : form.points) q.insert(q.end(), {point, -point});
    for (int i = 0; i < n; i++) {
      // row i of Bᵀ: the coefficients of Π (x - q_j), j ≠ i; row i of G: powers of q_i over the product's value at q_i;
      // ∞: Π (x - q_j) over all finite points, its weight and output are the highest powers
      std::vector<double> polynomial(size_t(n), 0);
      polynomial[0] = 1;
      double divisor = 1;
      for (int j = 0; j < last; j++) {
        if (j == i) continue;
        for (int k = last; k >= 0; k--) polynomial[size_t(k)] = (k ? polynomial[size_t(k - 1)] : 0) - q[size_t(j)] * polynomial[size_t(k)];
        if (i < last) divisor *= q[size_t(i)] - q[size_t(j)];
      }
      for (int k = 0; k < n; k++) b(i, k) = std::abs(polynomial[size_t(k)]);
      for (int k = 0; k < 3; k++) g(i, k) = i == last ? k == 2 : std::abs(std::pow(q[size_t(i)], k) / divisor);
      for (int k = 0; k < form.tile; k++) a(k, i) = i == last ? k == form.tile - 1 : std::abs(std::pow(q[size_t(i)], k));
    }
  }
};

/// left · m · leftᵀ
inline void sandwich(const Matrix& left, const double* m, double* out) {
  std::vector<double> t(size_t(left.rows * left.columns));
  for (int i = 0; i < left.rows; i++)
    for (int j = 0; j < left.columns; j++)
      for (int k = 0; k < left.columns; k++) t[size_t(i * left.columns + j)] += left(i, k) * m[k * left.columns + j];
  for (int i = 0; i < left.rows; i++)
    for (int j = 0; j < left.rows; j++) {
      out[i * left.rows + j] = 0;
      for (int k = 0; k < left.columns; k++) out[i * left.rows + j] += t[size_t(i * left.columns + k)] * left(j, k);
    }
}

/// The rounding errors of what is multiplied and summed, relative to it, grow by this factor on the way to the result, in
/// root mean square for normal data: E[V²] = (B²1)(B²1)ᵀ, E[U²] = (G²1)(G²1)ᵀ per product, the result being a sum of 3
/// products per dimension of the convolution (of `tile` products of the weight gradient, which multiplies (A²1)(A²1)ᵀ and
/// carries errors through G: the same). For F(4×4) the points 0, ±1, ±2, ∞ would give 2.2 times as much.
inline double normal_amplification(const WinogradTransform& form) {
  const WinogradMagnitudes m(form);
  double amplification = 0;  // of one dimension, squared: mean over the outputs
  for (int k = 0; k < form.tile; k++)
    for (int i = 0; i < form.window(); i++) {
      double b = 0, g = 0;
      for (int j = 0; j < form.window(); j++) b += m.b(i, j) * m.b(i, j);
      for (int j = 0; j < 3; j++) g += m.g(i, j) * m.g(i, j);
      amplification += m.a(k, i) * m.a(k, i) * b * g / (3 * form.tile);
    }
  return amplification;
}

}  // namespace df::test
