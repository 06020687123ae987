#include "compare.h"

#include <cmath>

#include "core/error.h"
#include "cpu/reference/values.h"

namespace df::test {

std::string mismatch(const Tensor& got, const Expected& want) {
  if (got.shape() != want.values.shape())
    return format("shape %s, expected %s", got.shape().str().c_str(), want.values.shape().str().c_str());
  const auto g = reference::load(got), w = reference::load(want.values);
  if (want.error.size() != w.size()) return format("%zu tolerances for %zu elements", want.error.size(), w.size());
  const double u = got.dtype() == DType::F32 ? 0 : dtype_epsilon(got.dtype());
  const double smallest = got.dtype() == DType::F16 ? 0x1p-25 : 0;  // half the distance of its subnormal numbers
  int64_t bad = 0;
  size_t worst = 0;
  double worst_ratio = -1;
  for (size_t i = 0; i < g.size(); i++) {
    double ratio = INFINITY;
    if (!std::isfinite(g[i]) && !want.may_be_non_finite.empty() && want.may_be_non_finite[i]) continue;
    if (std::isfinite(w[i])) {
      const double allowed = want.error[i] + u * (std::abs(w[i]) + want.error[i]) + smallest, error = std::abs(g[i] - w[i]);
      if (error <= allowed) continue;
      if (std::isfinite(error) && allowed > 0) ratio = error / allowed;
    } else if (!std::isfinite(g[i])) {
      continue;
    }
    bad++;
    if (ratio > worst_ratio) worst_ratio = ratio, worst = i;
  }
  if (!bad) return "";
  const double e = want.error[worst];
  return format(
      "%lld of %zu elements differ; worst at %zu of %s: got %.9g, expected %.9g, allowed %.3g, %.1f times that",
      static_cast<long long>(bad), g.size(), worst, got.shape().str().c_str(), g[worst], w[worst],
      e + u * (std::abs(w[worst]) + e) + smallest, worst_ratio);
}

std::string different_bits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return "shapes or dtypes differ";
  const size_t size = dtype_size(a.dtype()), row = size_t(a.shape().rank() ? a.dim(-1) : 1) * size;
  for (int64_t r = 0; r < a.rows(); r++) {
    const char* pa = static_cast<const char*>(a.raw()) + size_t(r * a.row_stride()) * size;
    const char* pb = static_cast<const char*>(b.raw()) + size_t(r * b.row_stride()) * size;
    for (size_t i = 0; i < row; i++)
      if (pa[i] != pb[i])
        return format("bits differ first in row %lld, element %zu", static_cast<long long>(r), i / size);
  }
  return "";
}

}  // namespace df::test
