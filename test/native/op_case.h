// One description of a call drives all that is checked of it: every instruction set against the oracle, dense and
// strided results, what lies around them, 1 = 2 = 3 threads bit for bit, the public op, and the meta backend.
#pragma once
#include <functional>
#include <string>

#include "compare.h"
#include "harness.h"
#include "ops/backend.h"
#include "tensors.h"

namespace df::test {

struct OpCall {
  Shape shape;  ///< of the result
  DType dtype = DType::F32;
  /// The call on one backend; packs its own weights.
  std::function<void(Backend&, Tensor& y)> run;
  /// The same through ops::, with the inputs moved to `device`. Empty for what has no public op (a backward function):
  /// then `run` is called on the meta backend, which looks at no input.
  std::function<Tensor(Device device)> op = {};
  /// The oracle's values on exact float32 copies of the inputs, and the tolerance.
  std::function<Expected()> expected;
  /// Results may be views (false where the contract has contiguous ones only).
  bool strided = true;
  /// A product or its gradient: the emulated CUDA cases also run with mma.sync and wgmma.
  bool product = false;
  /// Attention or group norm of rows of 16-byte vectors, which results that are views then have too: the emulated CUDA
  /// cases also run on the backend with mma.sync.
  bool vectors = false;
  /// What y holds before the call, rounded to its dtype, when the call adds to it; undefined: NaN.
  Tensor initial = {};
};

/// What the ops compute in.
constexpr DType kComputed[] = {DType::F32, DType::BF16, DType::F16};

/// Adds the cases "NAME isa=…" and "NAME ops". `make` builds the inputs when the first of them runs. `dtype`: of the call; with
/// float16 only on CUDA, and the ops on the CPU must refuse it.
void add_op_case(Suite& suite, const std::string& name, DType dtype, std::function<OpCall(Random&)> make);
void add_op_case(Suite& suite, const std::string& name, std::function<OpCall(Random&)> make);

/// What tests of kernels that are no op cases run on: every instruction set, and the emulated CUDA kernels.
struct KernelBackend {
  std::string name;
  Backend* supported;  ///< null where this machine or build lacks it
  /// Ends the case as not run where it is not supported.
  Backend& get() const;
};
std::vector<KernelBackend> kernel_backends();

/// Sums of `terms` float32 products: sqrt(terms) roundings that partly cancel (Higham 2002, section 2.8, rule of
/// thumb), and a few for the epilogue; in units of sum|a||b|.
double accumulation_error(int64_t terms);
constexpr double kFloat = 1.0 / 16777216;  ///< unit roundoff of float32
constexpr double kTiny = 0x1p-126;         ///< smallest normal float32: below it results are flushed to zero

/// The tolerance `factor * values` (elementwise, plus kTiny).
std::vector<double> scaled(const Tensor& values, double factor);
/// Runs the oracle into a new float32 tensor.
Tensor oracle(const Shape& shape, const std::function<void(Backend&, Tensor&)>& run);

}  // namespace df::test
