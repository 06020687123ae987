#include "backward_case.h"

#include <cmath>

#include "cpu/reference/values.h"

namespace df::test {
namespace {

OpCall call_of(const BackwardCall& c, size_t which, bool alone, Random& random) {
  const BackwardResult& result = c.results[which];
  const bool add = alone || result.parameter;
  OpCall call;
  call.shape = result.shape;
  call.dtype = result.parameter ? DType::F32 : c.dtype;
  call.strided = !result.parameter;
  call.vectors = c.vectors;
  if (add) call.initial = random_tensor(random, result.shape, call.dtype, Layout::Dense);
  const auto gradients = [=](const Tensor& y, DType dtype) {
    std::vector<Gradient> all(c.results.size());
    for (size_t i = 0; i < all.size(); i++) {
      if (i == which) all[i] = {y, add};
      else if (!alone && c.results[i].parameter) all[i] = {Tensor::zeros(c.results[i].shape, DType::F32, y.device()), true};
      else if (!alone) all[i] = {Tensor::empty(c.results[i].shape, dtype, y.device()), false};
    }
    return all;
  };
  call.run = [=](Backend& backend, Tensor& y) { c.run(backend, gradients(y, c.dtype)); };
  call.expected = [=, initial = call.initial] {
    const Tensor y = oracle(result.shape, [&](Backend& backend, Tensor& out) {
      const auto before = reference::load(initial);
      if (add) fill(out, [&](int64_t i) { return before[size_t(i)]; });
      c.run_exact(backend, gradients(out, DType::F32));
    });
    const auto values = reference::load(y);
    std::vector<double> error = c.errors()[which];
    for (size_t i = 0; i < error.size(); i++) error[i] += 2 * kFloat * std::abs(values[i]) + kTiny;  // rounded, by both
    return Expected{y, error};
  };
  return call;
}

}  // namespace

void add_backward_cases(Suite& suite, const std::string& name, const std::vector<std::string>& results,
                        const std::function<BackwardCall(Random&)>& make) {
  for (size_t which = 0; which < results.size(); which++)
    for (bool alone : {false, true})
      add_op_case(suite, name + " " + results[which] + (alone ? " alone" : ""), [=](Random& random) {
        const BackwardCall c = make(random);
        CHECK(c.results.size() == results.size() && c.results[which].name == results[which]);
        return call_of(c, which, alone, random);
      });
}

}  // namespace df::test
