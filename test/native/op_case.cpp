#include "op_case.h"

#include <cmath>

#include "core/execution.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "cuda/emulation/backend.h"
#include "cuda/emulation/runtime.h"
#include "device_case.h"
#include "mirror_backend.h"

namespace df::test {
namespace {

// Inputs and expectation of a case, kept for its instruction sets.
struct Prepared {
  OpCall call;
  Expected want;
};

// Only the latest case is kept: they run in order.
const Prepared& prepare(const std::string& name, const std::function<OpCall(Random&)>& make) {
  static std::string latest;
  static Prepared prepared;
  if (latest != name) {
    latest.clear();
    Random random(name);
    prepared.call = make(random);
    prepared.want = prepared.call.expected();
    latest = name;
  }
  return prepared;
}

Tensor run_on(Backend& backend, const OpCall& call, Layout layout, int threads) {
  static ThreadPool* const pools[] = {new ThreadPool(1), new ThreadPool(2), new ThreadPool(3)};
  Execution execution;
  execution.pool = pools[threads - 1];
  ExecutionScope scope(execution);
  Tensor y = guarded(call.shape, call.dtype, layout);
  if (call.initial.defined()) {
    const auto values = reference::load(call.initial);
    fill(y, [&](int64_t i) { return values[size_t(i)]; });
  }
  call.run(backend, y);
  check_guard(y, layout);
  return y;
}

void check_backend(const CpuIsa& isa, const Prepared& p) {
  if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
  Backend& backend = cpu_backend(isa.name);
  const Layout layout = p.call.strided ? Layout::Strided : Layout::Dense;
  const Tensor y = run_on(backend, p.call, layout, 1);
  std::string error = mismatch(y, p.want);
  if (!error.empty()) fail_case("%s", error.c_str());
  for (int threads = 2; threads <= 3; threads++) {
    error = different_bits(y, run_on(backend, p.call, layout, threads));
    if (!error.empty()) fail_case("1 and %d threads: %s", threads, error.c_str());
  }
  if (!p.call.strided) return;
  error = mismatch(run_on(backend, p.call, Layout::Dense, 1), p.want);
  if (!error.empty()) fail_case("contiguous result: %s", error.c_str());
}

// Threads and blocks in other orders, copies in flight as late or as early as allowed, other values in memory that was
// never written: the bits must be the same. `strided`: the layout of results that are views.
void check_emulated_cuda(Backend& backend, const Prepared& p, Layout strided) {
  struct Schedule {
    const char* name;
    emu::Order order;
    emu::Async async;
    uint8_t poison;
  };
  constexpr Schedule schedules[] = {{"ascending, lazy", emu::Order::Ascending, emu::Async::Lazy, 0xff},
                                    {"random, eager", emu::Order::Random, emu::Async::Eager, 0x3c},
                                    {"descending, random", emu::Order::Descending, emu::Async::Random, 0xff}};
  Tensor first;
  for (const Schedule& s : schedules) {
    emu::Settings& e = emu::settings();
    e.order = s.order, e.async = s.async, e.poison = s.poison;
    const Layout layout = p.call.strided && s.order != emu::Order::Descending ? strided : Layout::Dense;
    // the first schedule on copies of all arguments, as on a device
    MirrorBackend mirror(backend, {DeviceType::Cpu, 1});
    const Tensor y = run_on(first.defined() ? backend : mirror, p.call, layout, 1);
    std::string error = mismatch(y, p.want);
    if (!error.empty()) fail_case("%s: %s: %s", backend.name(), s.name, error.c_str());
    if (!first.defined()) first = y;
    // a dense result may take another path than an unaligned one, with another order of sums
    if (layout == strided || p.call.vectors || !p.call.strided) error = different_bits(first, y);
    if (!error.empty()) fail_case("%s: %s and %s: %s", backend.name(), schedules[0].name, s.name, error.c_str());
  }
}

void check_cuda(const Prepared& p) {
  need_device(0);
  MirrorBackend mirror(backend_for(kCuda), kCuda);
  for (const Layout layout : {Layout::Strided, Layout::Dense}) {
    if (layout == Layout::Strided && !p.call.strided) continue;
    const char* name = layout == Layout::Strided ? "strided" : "dense";
    const Tensor y = run_on(mirror, p.call, layout, 1);
    std::string error = mismatch(y, p.want);
    if (!error.empty()) fail_case("%s: %s", name, error.c_str());
    error = different_bits(y, run_on(mirror, p.call, layout, 1));
    if (!error.empty()) fail_case("%s, twice: %s", name, error.c_str());
  }
}

void check_ops(const Prepared& p) {
  if (!p.call.op) {
    Tensor y = Tensor::empty(p.call.shape, p.call.dtype, kMeta);
    p.call.run(backend_for(kMeta), y);
    return;
  }
  WorkCounter cpu_work, meta_work;
  Execution execution;
  ExecutionScope scope(execution);
  execution.work = &cpu_work;
  const Tensor y = p.call.op(kCpu);
  CHECK(y.shape() == p.call.shape && y.dtype() == p.call.dtype && y.device() == kCpu);
  const std::string error = mismatch(y, p.want);
  if (!error.empty()) fail_case("%s", error.c_str());
  execution.work = &meta_work;
  const Tensor m = p.call.op(kMeta);
  CHECK(m.shape() == p.call.shape && m.dtype() == p.call.dtype && m.device() == kMeta);
  CHECK(cpu_work.flops == meta_work.flops);
}

void check_half_ops(const Prepared& p) {
  Execution execution;
  ExecutionScope scope(execution);
  const Tensor m = p.call.op(kMetaCuda);
  CHECK(m.shape() == p.call.shape && m.dtype() == p.call.dtype && m.device() == kMetaCuda);
  expect_error(ErrorCode::InvalidArgument, "must be f32 or bf16, got f16", [&] { p.call.op(kCpu); });
}

}  // namespace

void add_op_case(Suite& suite, const std::string& name, std::function<OpCall(Random&)> make) {
  add_op_case(suite, name, DType::F32, std::move(make));
}

void add_op_case(Suite& suite, const std::string& name, DType dtype, std::function<OpCall(Random&)> make) {
  const bool half = dtype == DType::F16;
  for (const CpuIsa& isa : cpu_isas())
    if (!half) suite.add(name + " isa=" + isa.name, [=] { check_backend(isa, prepare(name, make)); });
  suite.add(name + " isa=cuda-emulated", [=] {
    const Prepared& p = prepare(name, make);
    check_emulated_cuda(emulated_cuda_backend(), p, Layout::Strided);
    const Layout strided = p.call.vectors ? Layout::Aligned : Layout::Strided;
    if (p.call.product || p.call.vectors) check_emulated_cuda(emulated_cuda_mma_backend(), p, strided);
    if (p.call.product) check_emulated_cuda(emulated_cuda_wgmma_backend(), p, strided);
  });
  suite.add(name + " isa=cuda:0", [=] { check_cuda(prepare(name, make)); });
  suite.add(name + " ops", [=] {
    const Prepared& p = prepare(name, make);
    half ? check_half_ops(p) : check_ops(p);
  });
}

std::vector<KernelBackend> kernel_backends() {
  std::vector<KernelBackend> all;
  for (const CpuIsa& isa : cpu_isas()) all.push_back({isa.name, isa.supported ? &cpu_backend(isa.name) : nullptr});
  all.push_back({"cuda-emulated", &emulated_cuda_backend()});
  all.push_back({"cuda-emulated-mma", &emulated_cuda_mma_backend()});
  all.push_back({"cuda-emulated-wgmma", &emulated_cuda_wgmma_backend()});
  return all;
}

Backend& KernelBackend::get() const {
  if (!supported) not_run("this machine or build lacks " + name);
  return *supported;
}

double accumulation_error(int64_t terms) { return kFloat * (4 + std::sqrt(double(terms))); }

std::vector<double> scaled(const Tensor& values, double factor) {
  auto v = reference::load(values);
  for (double& x : v) x = x * factor + kTiny;
  return v;
}

Tensor oracle(const Shape& shape, const std::function<void(Backend&, Tensor&)>& run) {
  static ThreadPool* const pool = new ThreadPool(2);
  Execution execution;
  execution.pool = pool;
  ExecutionScope scope(execution);
  Tensor y = Tensor::empty(shape, DType::F32, kCpu);
  run(reference_backend(), y);
  return y;
}

}  // namespace df::test
