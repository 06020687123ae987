// squared_norm and adamw_step on every instruction set, AdamW over a list of parameters.
#include <atomic>
#include <cmath>

#include "core/execution.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "op_case.h"
#include "optim/adamw.h"

namespace df::test {
namespace {

// The pool of so many threads is current as long as this lives.
struct Threads {
  explicit Threads(int threads) : pool(threads), scope(set(execution, &pool)) {}
  static Execution& set(Execution& e, ThreadPool* pool) {
    e.pool = pool;
    return e;
  }
  ThreadPool pool;
  Execution execution;
  ExecutionScope scope;
};

void check_squared_norm(const KernelBackend& kernels, const Shape& shape, Layout layout, double size) {
  Backend& b = kernels.get();
  Random random(shape.str());
  const Tensor x = random_tensor(random, shape, DType::F32, layout, -size, size);
  double want = 0;
  for (double v : reference::load(x)) want += v * v;
  const double got = b.squared_norm(x), terms = double(x.numel());
  if (!(std::abs(got - want) <= 2 * terms * 0x1p-53 * want)) fail_case("got %.17g, expected %.17g", got, want);
  for (int threads = 1; threads <= 3; threads++) {
    const Threads pool(threads);
    CHECK(b.squared_norm(x) == got);
  }
  if (kernels.name != "reference" && !kernels.name.starts_with("cuda"))
    CHECK(cpu_backend("portable").squared_norm(x) == got);
  poison(x);
  CHECK(!std::isfinite(b.squared_norm(x)));
}

AdamWStep some_step() {
  AdamWStep s;
  s.gradient_scale = 0.37f;
  s.lr = 1e-2f;
  s.weight_decay = 0.1f;
  s.beta1 = 0.9f;
  s.beta2 = 0.99f;
  s.eps = 1e-6f;
  s.step_size = 0.037f;
  s.root_correction = 0.17f;
  s.ema_decay = 0.95f;
  return s;
}

// Parameter, m, v, ema, gradient.
struct State {
  State(Random& random, const Shape& shape, bool with_ema) {
    const auto input = [&](double low) { return random_tensor(random, shape, DType::F32, Layout::Dense, low, 1); };
    p = input(-1), m = input(-1), v = input(0), g = input(-1);
    if (with_ema) ema = input(-1);
    fill(v, [&](int64_t i) { return i % 7 == 0 ? 0 : random.uniform(0, 1); });
    fill(g, [&](int64_t i) { return i % 5 == 0 ? 0 : random.uniform(-1, 1) * std::pow(10, random.uniform(-6, 2)); });
  }
  void step(Backend& b, const AdamWStep& s) { b.adamw_step(p, m, v, ema, g, s); }
  Tensor p, m, v, ema, g;
};

void check_same(const State& a, const State& b) {
  for (const auto& [x, y] : {std::pair(&a.p, &b.p), {&a.m, &b.m}, {&a.v, &b.v}, {&a.ema, &b.ema}, {&a.g, &b.g}}) {
    if (!x->defined()) continue;
    const std::string error = different_bits(*x, *y);
    if (!error.empty()) fail_case("%s", error.c_str());
  }
}

// Bit for bit the oracle, for 1, 2 and 3 threads, over several steps.
void check_adamw(const KernelBackend& kernels, int64_t size, bool ema) {
  Backend& b = kernels.get();
  const auto make = [&] {
    Random random(format("adamw %lld", (long long)size));
    return State(random, {size}, ema);
  };
  State want = make();
  for (int i = 0; i < 3; i++) want.step(reference_backend(), some_step());
  for (int threads = 1; threads <= 3; threads++) {
    const Threads pool(threads);
    State got = make();
    for (int i = 0; i < 3; i++) got.step(b, some_step());
    check_same(got, want);
    for (const Tensor* t : {&got.p, &got.m, &got.v, &got.g}) check_guard(*t, Layout::Dense);
    if (ema) check_guard(got.ema, Layout::Dense);
  }
}

// The oracle against the formulas in double.
void check_formula() {
  Random random("adamw formula");
  State s(random, {500}, true);
  const AdamWStep k = some_step();
  const auto p = reference::load(s.p), m = reference::load(s.m), v = reference::load(s.v), e = reference::load(s.ema),
             g = reference::load(s.g);
  s.step(reference_backend(), k);
  const auto p1 = reference::load(s.p), m1 = reference::load(s.m), v1 = reference::load(s.v),
             e1 = reference::load(s.ema);
  for (size_t i = 0; i < p.size(); i++) {
    const auto near = [&](double got, double want, double terms) {  // five roundings of the largest term
      if (!(std::abs(got - want) <= 5 * kFloat * terms)) fail_case("%zu: got %.9g, expected %.9g", i, got, want);
    };
    const double gradient = double(k.gradient_scale) * g[i], b1 = k.beta1, b2 = k.beta2, d = k.ema_decay;
    const double first = b1 * m[i] + (1 - b1) * gradient, second = b2 * v[i] + (1 - b2) * gradient * gradient;
    near(m1[i], first, std::abs(m[i]) + std::abs(gradient));
    near(v1[i], second, second);
    const double step = k.step_size * first / (std::sqrt(second) / k.root_correction + k.eps);
    const double step_error = k.step_size * (std::abs(m[i]) + std::abs(gradient)) /
                              (std::sqrt(second) / k.root_correction + k.eps);
    const double decayed = p[i] - double(k.lr) * k.weight_decay * p[i];
    near(p1[i], decayed - step, std::abs(p[i]) + 2 * step_error);
    near(e1[i], d * e[i] + (1 - d) * p1[i], std::abs(e[i]) + std::abs(p1[i]));
  }
}

// A model of three parameters; everything at once in double, with the formulas that torch documents.
struct Model {
  explicit Model(Random& random, bool ema) {
    for (const Shape& shape : {Shape{3, 5}, Shape{17}, Shape{2, 2, 2, 9}}) {
      TrainedParameter t;
      t.parameter = random_tensor(random, shape, DType::F32, Layout::Dense);
      t.gradient = random_tensor(random, shape, DType::F32, Layout::Dense);
      t.m = Tensor::zeros(shape, DType::F32, kCpu);
      t.v = Tensor::zeros(shape, DType::F32, kCpu);
      if (ema) t.ema = exact(t.parameter);
      parameters.push_back(t);
    }
  }
  // The values of one kind of tensor, one after the other.
  std::vector<double> all(Tensor TrainedParameter::*member) const {
    std::vector<double> values;
    for (const TrainedParameter& t : parameters)
      for (double v : reference::load(t.*member)) values.push_back(v);
    return values;
  }
  std::vector<TrainedParameter> parameters;
};

void check_against_torch() {
  Random random("adamw torch");
  Model model(random, true);
  AdamW optimizer(model.parameters);
  OptimizerStep s;
  s.lr = 1e-2;
  s.weight_decay = 0.1;
  s.clip_norm = 1;
  s.ema_decay = 0.9;
  auto p = model.all(&TrainedParameter::parameter), ema = p;
  std::vector<double> m(p.size()), magnitude(p.size()), v(p.size()), p_error(p.size()), ema_error(p.size());
  for (s.step = 1; s.step <= 5; s.step++) {
    for (TrainedParameter& t : model.parameters)
      fill(t.gradient, [&](int64_t) { return random.uniform(-1, 1) * (s.step == 3 ? 1e-3 : 1); });
    const auto g = model.all(&TrainedParameter::gradient);
    double norm = 0;
    for (double x : g) norm += x * x;
    norm = std::sqrt(norm);
    const double clip = std::min(1.0, 1 / (norm + 1e-6)), n = double(s.step);
    CHECK((s.step == 3) == (clip == 1));  // both cases occur
    const OptimizerResult result = optimizer.step(s);
    CHECK(result.applied);
    CHECK(std::abs(result.gradient_norm - norm) <= 1e-14 * norm);
    const auto got = model.all(&TrainedParameter::parameter), got_ema = model.all(&TrainedParameter::ema);
    for (size_t i = 0; i < p.size(); i++) {
      p[i] *= 1 - s.lr * s.weight_decay;
      m[i] = s.beta1 * m[i] + (1 - s.beta1) * clip * g[i];
      v[i] = s.beta2 * v[i] + (1 - s.beta2) * clip * g[i] * clip * g[i];
      magnitude[i] = s.beta1 * magnitude[i] + (1 - s.beta1) * clip * std::abs(g[i]);
      const double correction = s.lr / (1 - std::pow(s.beta1, n)),
                   root = std::sqrt(v[i] / (1 - std::pow(s.beta2, n))) + s.eps;
      p[i] -= correction * m[i] / root;
      ema[i] = s.ema_decay * ema[i] + (1 - s.ema_decay) * p[i];
      // The moments are averages whose weights are powers of the float32 betas over their sum: a relative error of at
      // most 2n roundings, 3n more from the steps; the same for v, halved by the root; then some ten. The EMA's weight
      // 1 - 0.9f is off by four.
      p_error[i] += kFloat * (3 * std::abs(p[i]) + (8 * n + 10) * correction * magnitude[i] / root);
      ema_error[i] = s.ema_decay * ema_error[i] + (1 - s.ema_decay) * p_error[i] +
                     6 * kFloat * (std::abs(ema[i]) + std::abs(p[i]));
      if (!(std::abs(got[i] - p[i]) <= p_error[i]))
        fail_case("step %d, %zu: off by %.3g, allowed %.3g", int(s.step), i, got[i] - p[i], p_error[i]);
      if (!(std::abs(got_ema[i] - ema[i]) <= ema_error[i]))
        fail_case("step %d, EMA %zu: off by %.3g, allowed %.3g", int(s.step), i, got_ema[i] - ema[i], ema_error[i]);
    }
  }
}

void check_not_applied() {
  Random random("adamw limit");
  Model model(random, true);
  std::vector<TrainedParameter> before;
  for (const TrainedParameter& t : model.parameters)
    before.push_back({exact(t.parameter), exact(t.gradient), exact(t.m), exact(t.v), exact(t.ema)});
  AdamW optimizer(model.parameters);
  const auto unchanged = [&] {
    for (size_t i = 0; i < before.size(); i++)
      for (auto member :
           {&TrainedParameter::parameter, &TrainedParameter::m, &TrainedParameter::v, &TrainedParameter::ema})
        CHECK(different_bits(before[i].*member, model.parameters[i].*member).empty());
  };
  OptimizerStep s;
  s.lr = 0.1;
  s.norm_limit = 0.5 * optimizer.gradient_norm();
  OptimizerResult r = optimizer.step(s);
  CHECK(!r.applied && r.gradient_norm > s.norm_limit);
  unchanged();
  const Tensor& last = model.parameters[2].gradient;
  for (double bad : {double(NAN), double(INFINITY)})
    for (double limit : {0.0, 1e6}) {
      fill(last, [&](int64_t i) { return i == 70 ? bad : 0.1; });
      s.norm_limit = limit;
      CHECK(!optimizer.step(s).applied);
      unchanged();
    }
  fill(last, [&](int64_t) { return 0.1; });
  CHECK(optimizer.step(s).applied);
  CHECK(!different_bits(before[2].parameter, model.parameters[2].parameter).empty());
  // a step that is cancelled has changed nothing
  before.clear();
  for (const TrainedParameter& t : model.parameters)
    before.push_back({exact(t.parameter), exact(t.gradient), exact(t.m), exact(t.v), exact(t.ema)});
  std::atomic<bool> cancelled{true};
  Execution execution;
  execution.cancelled = &cancelled;
  ExecutionScope scope(execution);
  expect_error(ErrorCode::Cancelled, "", [&] { optimizer.step(s); });
  unchanged();
}

void check_refusals() {
  const auto refuse = [](const std::string& part, const std::function<void()>& body) {
    expect_error(ErrorCode::InvalidArgument, part, body);
  };
  const auto zeros = [](const Shape& shape, DType dtype = DType::F32) { return Tensor::zeros(shape, dtype, kCpu); };
  const TrainedParameter good{zeros({2, 3}), zeros({2, 3}), zeros({2, 3}), zeros({2, 3}), Tensor()};
  TrainedParameter t = good;
  t.gradient = zeros({3, 2});
  refuse("AdamW: the gradient of parameter 1 must be contiguous f32 (2, 3) on cpu:0, got f32 (3, 2) on cpu:0",
         [&] { AdamW({good, t}); });
  t = good, t.m = Tensor();
  refuse("m of parameter 0 must be contiguous f32 (2, 3) on cpu:0, got an undefined one", [&] { AdamW({t}); });
  t = good, t.v = zeros({2, 3}, DType::BF16);
  refuse("v of parameter 0 must be contiguous f32 (2, 3) on cpu:0, got bf16 (2, 3) on cpu:0", [&] { AdamW({t}); });
  t = good, t.ema = zeros({2, 4}).slice_last(0, 3);
  refuse("the EMA of parameter 0 must be contiguous f32 (2, 3) on cpu:0, got strided f32", [&] { AdamW({t}); });
  AdamW optimizer({good});
  const auto step = [&](const std::string& part, const std::function<void(OptimizerStep&)>& change) {
    OptimizerStep s;
    change(s);
    refuse(part, [&] { optimizer.step(s); });
  };
  step("AdamW: step must be at least 1, got 0", [](OptimizerStep& s) { s.step = 0; });
  step("AdamW: lr must be at least 0 and less than inf, got -1", [](OptimizerStep& s) { s.lr = -1; });
  step("AdamW: lr must be at least 0", [](OptimizerStep& s) { s.lr = NAN; });
  step("AdamW: weight_decay must be", [](OptimizerStep& s) { s.weight_decay = INFINITY; });
  step("AdamW: beta1 must be at least 0 and less than 1, got 1", [](OptimizerStep& s) { s.beta1 = 1; });
  step("AdamW: beta2 must be", [](OptimizerStep& s) { s.beta2 = -0.1; });
  step("AdamW: eps must be", [](OptimizerStep& s) { s.eps = -1e-8; });
  step("AdamW: clip_norm must be", [](OptimizerStep& s) { s.clip_norm = -1; });
  step("AdamW: ema_decay must be", [](OptimizerStep& s) { s.ema_decay = 1; });
  step("AdamW: norm_limit must be", [](OptimizerStep& s) { s.norm_limit = -1; });
  CHECK(AdamW({}).gradient_norm() == 0);
}

const Registration optimizers([](Suite& suite) {
  for (const KernelBackend& kernels : kernel_backends()) {
    for (const Shape& shape : {Shape{1}, Shape{15}, Shape{16}, Shape{17}, Shape{1000}, Shape{70001}, Shape{3, 4, 5, 6}})
      for (Layout layout : {Layout::Dense, Layout::Strided})
        for (double size : {1.0, 1e30, 1e-30})
          suite.add(format("squared_norm %s%s size=%g isa=%s", shape.str().c_str(),
                           layout == Layout::Strided ? " strided" : "", size, kernels.name.c_str()),
                    [=] { check_squared_norm(kernels, shape, layout, size); });
    for (int64_t size : {1, 3, 4, 7, 8, 15, 16, 17, 33, 1000, 40000})
      for (bool ema : {false, true})
        suite.add(format("adamw_step n=%lld%s isa=%s", (long long)size, ema ? " ema" : "", kernels.name.c_str()),
                  [=] { check_adamw(kernels, size, ema); });
  }
  suite.add("adamw_step formula", check_formula);
  suite.add("AdamW against torch's formulas", check_against_torch);
  suite.add("AdamW not applied", check_not_applied);
  suite.add("AdamW refusals", check_refusals);
});

}  // namespace
}  // namespace df::test
