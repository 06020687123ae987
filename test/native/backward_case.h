// Op cases of backward functions with several results: one per result.
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
  bool vectors = false;  ///< OpCall::vectors
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

}  // namespace df::test
