// Inputs and outputs of the test cases: reproducible numbers in hostile places.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "core/tensor.h"

namespace df::test {

/// Reproducible numbers that depend on the case's name only (splitmix64; Steele et al. 2014).
class Random {
 public:
  explicit Random(const std::string& seed);
  uint64_t bits();
  /// Uniform in [low, high).
  double uniform(double low, double high);

 private:
  uint64_t state_;
};

enum class Layout {
  Dense,    ///< ends where an inaccessible page begins
  Strided,  ///< rows C + 7 apart, the first at an odd offset: nothing is aligned
  Aligned,  ///< rows C + 24 apart, rounded up to a multiple of 8, the first after 8: rows that begin at 16-byte vectors
};

/// "", " strided" or " aligned": the end of a case's name.
const char* layout_name(Layout layout);
/// Another one: for a second input whose strides should differ.
inline Layout other(Layout layout) { return layout == Layout::Dense ? Layout::Strided : Layout::Dense; }
/// The same among those with rows of 16-byte vectors, if `vectors`.
inline Layout other(Layout layout, bool vectors) {
  return !vectors ? other(layout) : layout == Layout::Dense ? Layout::Aligned : Layout::Dense;
}

/// A tensor whose surroundings (between and around the rows) hold NaN, so that what reads them shows it.
Tensor guarded(const Shape& shape, DType dtype, Layout layout);
/// Fails the case when the surroundings of a tensor made by guarded(layout) were written.
void check_guard(const Tensor& t, Layout layout);

/// Sets every element of a floating tensor to f(row-major index), rounded to its dtype.
void fill(const Tensor& t, const std::function<double(int64_t)>& f);
/// guarded + uniform in [low, high).
Tensor random_tensor(Random& random, const Shape& shape, DType dtype, Layout layout, double low = -1, double high = 1);
/// Dense, standard normal.
Tensor normal_tensor(Random& random, const Shape& shape, DType dtype);
/// Puts NaN, +inf and -inf into three elements (first, middle, last).
void poison(const Tensor& t);

/// The same values in dense float32 (exact for every floating dtype), and their magnitudes.
Tensor exact(const Tensor& t);
Tensor magnitude(const Tensor& t);
/// Dense float32 tensor of given values.
Tensor tensor_of(const Shape& shape, const std::vector<double>& values);
Tensor ints(const Shape& shape, const std::vector<int32_t>& values);
/// t itself on the CPU, else a copy on `device`. Undefined stays undefined.
Tensor on(const Tensor& t, Device device);

}  // namespace df::test
