// Bounds of the intermediate values of Winograd's F(4×4, 3×3), for the tolerances of its tests.
#pragma once
#include <array>
#include <cmath>

namespace df::test {

constexpr int kWindow = 6, kTile = 4;

// Magnitudes of the transforms for the points 0, ±5/8, ±3/2, ∞ (Lavin & Gray 2016; Blahut's construction).
struct WinogradMagnitudes {
  double b[kWindow][kWindow] = {}, g[kWindow][3] = {}, a[kTile][kWindow] = {};
  WinogradMagnitudes() {
    const double q[5] = {0, 0.625, -0.625, 1.5, -1.5};
    for (int i = 0; i < 5; i++) {
      // row i of Bᵀ: the coefficients of Π (x - q_j), j ≠ i; row i of G: powers of q_i over the product's value at q_i
      std::array<double, kWindow> polynomial{1};
      double divisor = 1;
      for (int j = 0; j < 5; j++) {
        if (j == i) continue;
        for (int k = kWindow - 1; k >= 0; k--) polynomial[k] = (k ? polynomial[k - 1] : 0) - q[j] * polynomial[k];
        divisor *= q[i] - q[j];
      }
      for (int k = 0; k < kWindow; k++) b[i][k] = std::abs(polynomial[k]);
      for (int k = 0; k < 3; k++) g[i][k] = std::abs(std::pow(q[i], k) / divisor);
      for (int k = 0; k < kTile; k++) a[k][i] = std::abs(std::pow(q[i], k));
    }
    // ∞: Π (x - q_j) over all finite points; its weight and output are the highest powers
    std::array<double, kWindow> polynomial{1};
    for (double root : q)
      for (int k = kWindow - 1; k >= 0; k--) polynomial[k] = (k ? polynomial[k - 1] : 0) - root * polynomial[k];
    for (int k = 0; k < kWindow; k++) b[5][k] = std::abs(polynomial[k]);
    g[5][2] = a[kTile - 1][5] = 1;
  }
};

// left · m · leftᵀ for a rows × columns left.
template <int R, int C> void sandwich(const double (&left)[R][C], const double* m, double* out) {
  double t[R][C];
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++) {
      t[i][j] = 0;
      for (int k = 0; k < C; k++) t[i][j] += left[i][k] * m[k * C + j];
    }
  for (int i = 0; i < R; i++)
    for (int j = 0; j < R; j++) {
      out[i * R + j] = 0;
      for (int k = 0; k < C; k++) out[i * R + j] += t[i][k] * left[j][k];
    }
}

}  // namespace df::test
