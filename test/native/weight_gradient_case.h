// Op cases of weight gradients, and cases of batches that are cut among replicas.
#pragma once
#include "op_case.h"

namespace df::test {

struct WeightGradientCase {
  DType dtype = DType::F32;  ///< of x and dy
  Layout layout = Layout::Dense;
  float scale = 1;
  bool poisoned = false;  // NaN and infinity in x and dy
  bool one_sign = false;  // nothing cancels: the worst case of an accumulation
};
std::string describe(const WeightGradientCase& c);

/// x, dy and what dw holds before: exact float32 copies.
struct WeightGradientInputs {
  Tensor x, dy, dw;
  Conv2dParams p;
  float scale;
};
/// Error bounds for every element of dw.
using GradientTolerance = std::function<std::vector<double>(const WeightGradientInputs&)>;
/// |error| <= c * eps * (Σ|dy||x| + |dw|) for sums over the output pixels of all items.
std::vector<double> gradient_sum_tolerance(const WeightGradientInputs& in);

/// The call for drawn x and dy, added to a drawn dw. Elements whose channels of x or dy hold a NaN or an infinity may be
/// non-finite (a border of zeros is multiplied too).
OpCall weight_gradient(Random& random, const WeightGradientCase& c, const Shape& dw_shape, const Shape& x_shape,
                       const Shape& dy_shape, const Conv2dParams& p, const GradientTolerance& tolerance);

/// Adds cases: the gradients of the parts of a batch of `items`, a power of two (2, 4, … equal parts of at least two
/// items), added as replicas add them, have the bits of the whole batch's. `add` adds the gradient of items [first, first + count) to
/// dw, of `shape`.
using AddGradient = std::function<void(Backend&, Tensor& dw, int64_t first, int64_t count)>;
void add_replica_cases(Suite& suite, const std::string& name, int64_t items, const Shape& shape,
                       std::function<AddGradient(Random&)> make);

}  // namespace df::test
