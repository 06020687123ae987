// What the tests of backward functions have in common: one op case per result, and halves of a batch.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "op_case.h"

namespace df::test {

/// One result of a backward function.
struct BackwardResult {
  std::string name;
  Shape shape;
  bool parameter = false;  ///< a parameter gradient: float32, contiguous, always added to
};

/// The inputs of a backward function, in the dtype of the case, and what is known about its results.
struct BackwardCall {
  DType dtype = DType::F32;
  std::vector<BackwardResult> results;
  /// Calls the function; results that are not wanted are undefined.
  std::function<void(Backend&, const std::vector<Gradient>&)> run;
  /// The same with exact float32 copies of the inputs, on the oracle.
  std::function<void(Backend&, const std::vector<Gradient>&)> run_exact;
  /// Largest error of every result before it is rounded or added to something.
  std::function<std::vector<std::vector<double>>()> errors;
};

/// Adds op cases "NAME RESULT" (written, all other results wanted too) and "NAME RESULT alone" (added to, if it can be,
/// and the only one wanted) for every result.
void add_backward_cases(Suite& suite, const std::string& name, const std::vector<std::string>& results,
                        const std::function<BackwardCall(Random&)>& make);

/// Adds cases "NAME halves isa=…": the gradient of a parameter over a batch of `items` is bit for bit that over its
/// first half plus that over its second half. run(backend, first, count, gradient) adds the gradient over items
/// [first, first + count).
void add_halves_cases(Suite& suite, const std::string& name, int64_t items, const Shape& shape,
                      const std::function<std::function<void(Backend&, int64_t first, int64_t count, Tensor&)>(Random&)>& make);

}  // namespace df::test
