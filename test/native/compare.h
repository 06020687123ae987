// Comparators of the tests. They accept: what is not shown to be within its tolerance (a NaN, say) fails.
#pragma once
#include <string>
#include <vector>

#include "core/tensor.h"

namespace df::test {

/// What an op should give: float32 values (not yet rounded to the dtype of the op) and, per element in row-major order,
/// the largest error that the arithmetic may have made before the result is rounded.
struct Expected {
  Tensor values;
  std::vector<double> error;
  /// Elements that may be NaN or infinite although the value is finite; empty: none.
  std::vector<bool> may_be_non_finite = {};
};

/// "" when every element of `got` is accepted, else what is wrong with the worst one. Finite elements: |got - want| <=
/// e + u * (|want| + e), u the unit roundoff of got's dtype (0 for float32: its rounding is part of e). Elsewhere both
/// must be non-finite, but for `may_be_non_finite`.
std::string mismatch(const Tensor& got, const Expected& want);
/// "" when shapes, dtypes and bits agree.
std::string different_bits(const Tensor& a, const Tensor& b);

}  // namespace df::test
