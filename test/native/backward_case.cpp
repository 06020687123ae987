#include "backward_case.h"

#include <cmath>

#include "core/execution.h"
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

void add_halves_cases(
    Suite& suite, const std::string& name, int64_t items, const Shape& shape,
    const std::function<std::function<void(Backend&, int64_t first, int64_t count, Tensor&)>(Random&)>& make) {
  for (const CpuIsa& isa : cpu_isas())
    suite.add(name + " halves isa=" + isa.name, [=] {
      if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
      static ThreadPool* const pool = new ThreadPool(2);
      Execution execution;
      execution.pool = pool;
      ExecutionScope scope(execution);
      Random random(name);
      const auto run = make(random);
      const auto gradient = [&](int64_t first, int64_t count) {
        Tensor g = Tensor::zeros(shape, DType::F32, kCpu);
        run(cpu_backend(isa.name), first, count, g);
        return g;
      };
      const Tensor whole = gradient(0, items), first = gradient(0, items / 2), second = gradient(items / 2, items / 2);
      const Tensor sum = Tensor::empty(shape, DType::F32, kCpu);
      for (int64_t i = 0; i < sum.numel(); i++) sum.data<float>()[i] = first.data<float>()[i] + second.data<float>()[i];
      const std::string error = different_bits(whole, sum);
      if (!error.empty()) fail_case("%s", error.c_str());
      const auto size = reference::load(magnitude(whole));
      double total = 0;
      for (double v : size) total += v;
      CHECK(total > 0);
    });
}

}  // namespace df::test
