// blend and diffusion_loss: against the oracle, the oracle against the original code and finite differences.
#include <cmath>

#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "finite_difference.h"
#include "golden.h"
#include "op_case.h"
#include "ops/ops.h"

namespace df::test {
namespace {

using Main = DiffusionLoss::Main;

// Values that are summed in float32, in at least 4 lanes.
constexpr int64_t kBlock = 1024 / 4;

// Coefficients of timestep t of IF's schedule (squared cosine, 1000 steps) for a model that predicts ε with a learned
// variance between posterior and β; the posterior's log variance at 0 is that at 1.
LossSample sample_at(int t) {
  const auto level = [](int i) { return std::pow(std::cos((i / 1000.0 + 0.008) / 1.008 * M_PI / 2), 2); };
  const auto beta = [&](int i) { return std::min(1 - level(i + 1) / level(i), 0.999); };
  const auto product = [&](int steps) {  // ᾱ after so many steps
    double p = 1;
    for (int i = 0; i < steps; i++) p *= 1 - beta(i);
    return p;
  };
  const double before = product(t), now = product(t + 1);
  const int u = std::max(t, 1);
  LossSample s;
  s.variational_weight = 1;
  s.sample_scale = float(std::sqrt(1 / now));
  s.output_scale = float(-std::sqrt(1 / now - 1));
  s.x0_coef = float(beta(t) * std::sqrt(before) / (1 - now));
  s.x_coef = float((1 - before) * std::sqrt(1 - beta(t)) / (1 - now));
  s.true_log = s.min_log = float(std::log(beta(u) * (1 - product(u)) / (1 - product(u + 1))));
  s.max_log = float(std::log(beta(t)));
  s.last = t == 0;
  return s;
}

// The loss of the original code (hybrid_loss of test/golden), every instruction set.
void check_golden(const KernelBackend& kernels, bool terms_only) {
  const auto file = golden("training/hybrid_loss");
  const auto image = [&](const char* name) { return ops::nchw_to_nhwc(file->tensor(name), DType::F32); };
  const Tensor steps = file->tensor("timestep.i64"), mse = file->tensor("mse"), vb = file->tensor("vb");
  const Tensor model = image("model_output"), x0 = image("x_start");
  DiffusionLoss p;
  std::vector<float> image_scale, noise_scale;
  for (int i = 0; i < 4; i++) {
    p.samples.push_back(sample_at(int(steps.data<int64_t>()[i])));
    image_scale.push_back(1 / p.samples.back().sample_scale);
    noise_scale.push_back(-p.samples.back().output_scale / p.samples.back().sample_scale);
  }
  Backend& b = kernels.get();
  Tensor terms = guarded({4, 2}, DType::F32, Layout::Strided), xt = Tensor::empty(x0.shape(), DType::F32, kCpu);
  b.blend(xt, image_scale, x0, noise_scale, image("noise"));
  check_close("x_t", xt, image("x_t"), 1e-6);  // three float32 roundings of numbers of order 1
  Tensor dmodel = terms_only ? Tensor() : Tensor::empty(model.shape(), DType::F32, kCpu);
  b.diffusion_loss(terms, dmodel, model, x0, image("x_t"), image("noise"), p);
  const auto got = reference::load(terms);
  for (size_t i = 0; i < 4; i++) {
    const double want[2] = {mse.data<float>()[i], vb.data<float>()[i]};
    for (size_t term = 0; term < 2; term++)
      if (!(std::abs(got[2 * i + term] - want[term]) <= 1e-4 * want[term]))  // golden/README.md
        fail_case("sample %zu: %s is %.9g, expected %.9g", i, term ? "variational term" : "mse", got[2 * i + term],
                  want[term]);
  }
}

struct LossCase {
  DType dtype;  // of the model
  int64_t items, height, width, channels;
  bool learned = true;
  Main main = Main::Mse;
  Layout layout = Layout::Dense;
};

std::string describe(const LossCase& c) {
  return format("n=%lld h=%lld w=%lld c=%lld %s%s%s%s", (long long)c.items, (long long)c.height, (long long)c.width,
                (long long)c.channels, dtype_name(c.dtype), c.learned ? " learned" : "",
                c.main == Main::Huber ? " huber" : "", c.layout == Layout::Strided ? " strided" : "");
}

struct LossInputs {
  Tensor model, x0, xt, noise;
  DiffusionLoss p;
};

LossInputs inputs(Random& random, const LossCase& c) {
  const Shape shape{c.items, c.height, c.width, c.channels};
  LossInputs in;
  in.model = random_tensor(random, {c.items, c.height, c.width, c.learned ? 2 * c.channels : c.channels}, c.dtype,
                           c.layout, -1, 1);
  in.x0 = random_tensor(random, shape, DType::F32, other(c.layout), -1, 1);
  in.noise = random_tensor(random, shape, DType::F32, c.layout, -2, 2);
  in.p.main = c.main;
  in.p.huber_delta = 0.7f;
  in.p.gradient_scale = 0.25f;
  const int steps[] = {500, 0, 1, 20, 999, 300};
  std::vector<float> a, b;
  for (int64_t i = 0; i < c.items; i++) {
    LossSample s = sample_at(steps[i % 6]);
    s.weight = float(random.uniform(0.5, 2));
    s.variational_weight = i % 6 == 3 ? 0 : float(random.uniform(0.5, 2));
    if (i % 3 == 2) s.target_x0 = -0.6f, s.target_noise = 0.8f;
    in.p.samples.push_back(s);
    a.push_back(1 / s.sample_scale);
    b.push_back(-s.output_scale / s.sample_scale);
  }
  in.xt = guarded(shape, DType::F32, c.layout);
  Tensor xt = in.xt;
  reference_backend().blend(xt, a, in.x0, b, in.noise);
  return in;
}

// What float32 arithmetic without fused operations may do to the sums and gradients, step by step as in the kernel.
struct LossError {
  std::vector<double> terms, dmodel;
};

LossError loss_error(const LossCase& c, const LossInputs& in) {
  constexpr double u = kFloat;
  const auto ms = reference::load(in.model), x0s = reference::load(in.x0), xts = reference::load(in.xt),
             noises = reference::load(in.noise);
  const size_t channels = size_t(c.channels), outputs = c.learned ? 2 * channels : channels;
  const size_t values = size_t(c.height * c.width) * channels;
  LossError error{std::vector<double>(size_t(2 * c.items)), std::vector<double>(ms.size())};
  for (size_t i = 0; i < x0s.size(); i++) {
    const size_t n = i / values, row = i / channels, channel = i % channels, at = row * outputs + channel;
    const LossSample& s = in.p.samples[n];
    const double scale = double(in.p.gradient_scale) / double(values), delta = in.p.huber_delta;
    const double m = ms[at], from_x0 = s.target_x0 * x0s[i], from_noise = s.target_noise * noises[i],
                 target = from_x0 + from_noise, e = m - target;
    const double e_error = u * (std::abs(from_x0) + std::abs(from_noise) + std::abs(target) + std::abs(e));
    const double slope = c.main == Main::Mse ? 2 * std::abs(e) : std::min(std::abs(e), delta);
    const double loss = c.main == Main::Mse ? e * e : slope * (std::abs(e) - slope / 2);
    const double sum_error = accumulation_error(kBlock);
    error.terms[2 * n] += s.weight / double(values) * (slope * e_error + (3 * u + sum_error) * loss);
    error.dmodel[at] = scale * s.weight * ((c.main == Main::Mse ? 2 : 1) * e_error + 3 * u * slope) + kTiny;
    if (!c.learned || s.variational_weight == 0) continue;
    const double v = ms[at + channels], middle = 0.5 * (double(s.max_log) + s.min_log),
                 half = 0.5 * (double(s.max_log) - s.min_log), log_variance = v * half + middle;
    const double to_bits = s.variational_weight / M_LN2, v_scale = scale * to_bits * half * 0.5;
    if (s.last) {  // in double
      error.dmodel[at + channels] = kTiny;
      continue;
    }
    const double log_error = u * (2 * std::abs(v * half) + std::abs(middle) + std::abs(log_variance));
    const double from_m = s.output_scale * m, from_xt = s.sample_scale * xts[i], predicted = from_xt + from_m;
    const double d = s.x0_coef * (x0s[i] - predicted);
    const double d_error =
        s.x0_coef * u * (std::abs(from_m) + std::abs(from_xt) + std::abs(predicted)) + 3 * u * std::abs(d);
    const double gap = log_variance - s.true_log, gap_error = log_error + u * std::abs(gap), ratio = std::exp(-gap);
    const double inverse = std::exp(-log_variance), square = d * d * inverse, rest = ratio + square;
    // an exponential: 2 units, and what its argument carries
    const double rest_error = ratio * (gap_error + 2 * u) + 2 * std::abs(d) * d_error * inverse +
                              square * (log_error + 5 * u) + u * rest;
    const double kl = 0.5 * (gap - 1 + rest);
    error.terms[2 * n + 1] +=
        to_bits / double(values) *
        (0.5 * (gap_error + u * std::abs(gap - 1) + rest_error) + (2 * u + sum_error) * kl);
    error.dmodel[at + channels] = v_scale * (rest_error + 4 * u * std::abs(1 - rest)) + kTiny;
  }
  return error;
}

void add_loss(Suite& suite, const LossCase& c) {
  const auto add = [&](const char* what, bool gradient) {
    add_op_case(suite, "diffusion_loss " + describe(c) + what, [=](Random& random) {
      const LossInputs in = inputs(random, c);
      OpCall call;
      call.shape = gradient ? in.model.shape() : Shape{c.items, 2};
      call.dtype = gradient ? c.dtype : DType::F32;
      const auto run = [=](Backend& b, Tensor& y, const Tensor& model) {
        Tensor terms = Tensor::empty({c.items, 2}, DType::F32, kCpu), none;
        if (gradient) b.diffusion_loss(terms, y, model, in.x0, in.xt, in.noise, in.p);
        else b.diffusion_loss(y, none, model, in.x0, in.xt, in.noise, in.p);
      };
      call.run = [=](Backend& b, Tensor& y) { run(b, y, in.model); };
      const Shape shape = call.shape;
      call.expected = [=] {
        const Tensor y = oracle(shape, [&](Backend& b, Tensor& out) { run(b, out, exact(in.model)); });
        const LossError error = loss_error(c, in);
        Expected want{y, gradient ? error.dmodel : error.terms};
        const auto values = reference::load(y);
        for (size_t i = 0; i < values.size(); i++) want.error[i] += 2 * kFloat * std::abs(values[i]);
        return want;
      };
      return call;
    });
  };
  add(" terms", false);
  add(" gradient", true);
}

void add_blend(Suite& suite, const Shape& shape, Layout layout) {
  add_op_case(suite, "blend " + shape.str() + (layout == Layout::Strided ? " strided" : ""), [=](Random& random) {
    const Tensor x = random_tensor(random, shape, DType::F32, layout),
                 z = random_tensor(random, shape, DType::F32, other(layout));
    std::vector<float> a, b, size_a, size_b;
    for (int64_t i = 0; i < shape[0]; i++) {
      a.push_back(float(random.uniform(-1, 1)));
      b.push_back(float(random.uniform(-1, 1)));
      size_a.push_back(std::abs(a.back()));
      size_b.push_back(std::abs(b.back()));
    }
    OpCall call;
    call.shape = shape;
    call.run = [=](Backend& backend, Tensor& y) { backend.blend(y, a, x, b, z); };
    call.expected = [=] {
      const Tensor y = oracle(shape, [&](Backend& backend, Tensor& out) { backend.blend(out, a, x, b, z); });
      const Tensor size = oracle(shape, [&](Backend& backend, Tensor& out) {
        backend.blend(out, size_a, magnitude(x), size_b, magnitude(z));
      });
      return Expected{y, scaled(size, 3 * kFloat)};
    };
    return call;
  });
}

// m and v as one model output.
Tensor joined(const Tensor& m, const Tensor& v) {
  const int64_t channels = m.dim(-1);
  Tensor model = Tensor::empty({m.dim(0), m.dim(1), m.dim(2), 2 * channels}, DType::F32, kCpu);
  ops::copy(m, DType::F32, model.slice_last(0, channels));
  ops::copy(v, DType::F32, model.slice_last(channels, channels));
  return model;
}

// The oracle's gradient of m through the main term, or of v through the variational term, at one timestep: the terms of
// different ones differ by orders of magnitude.
void add_difference(Suite& suite, bool of_variance, Main main, int t) {
  const std::string name = std::string("diffusion_loss ") + (of_variance ? "variance" : "mean") +
                           (main == Main::Huber ? " huber" : "") + format(" t=%d finite difference", t);
  add_gradient_case(suite, name, [=](Random& random) {
    const LossCase c{DType::F32, 3, 3, 4, 3, true, main};
    LossInputs in = inputs(random, c);
    for (LossSample& s : in.p.samples) {
      const LossSample weights = s;
      s = sample_at(t);
      s.target_x0 = weights.target_x0, s.target_noise = weights.target_noise;
    }
    // edges of the range, where the bins are open
    fill(in.x0, [&](int64_t i) { return i % 5 == 0 ? 1 : i % 5 == 1 ? -1 : random.uniform(-0.9, 0.9); });
    const float noise_scale = -in.p.samples[0].output_scale / in.p.samples[0].sample_scale;
    Tensor xt = in.xt;
    reference_backend().blend(xt, std::vector<float>(3, 1 / in.p.samples[0].sample_scale), in.x0,
                              std::vector<float>(3, noise_scale), in.noise);
    const Tensor model = exact(in.model);
    const Tensor m = ops::copy(model.slice_last(0, 3), DType::F32), v = ops::copy(model.slice_last(3, 3), DType::F32);
    if (main == Main::Huber) {  // no error within a step of the delta, where the second derivative jumps
      const auto x0s = reference::load(in.x0), noises = reference::load(in.noise);
      fill(m, [&](int64_t i) {
        const LossSample& s = in.p.samples[size_t(i / (3 * 4 * 3))];
        double e = random.uniform(-1.4, 1.4);
        if (std::abs(std::abs(e) - 0.7) < 0.1) e /= 2;
        return s.target_x0 * x0s[size_t(i)] + s.target_noise * noises[size_t(i)] + e;
      });
    }
    // the weights of the terms are the gradients that come in
    const auto weighted = [=](const std::function<double(size_t)>& weight) {
      DiffusionLoss p = in.p;
      p.gradient_scale = 1;
      for (size_t i = 0; i < p.samples.size(); i++) {
        p.samples[i].weight = float(of_variance ? 0 : weight(i));
        p.samples[i].variational_weight = float(of_variance ? weight(i) : 0);
      }
      return p;
    };
    const auto model_of = [=](const Tensor& t) { return of_variance ? joined(m, t) : joined(t, v); };
    Differentiable f;
    f.inputs = {of_variance ? v : m};
    // the log variance changes by 1/64: its range may be narrow
    if (of_variance) f.step = 2 / (double(in.p.samples[0].max_log) - in.p.samples[0].min_log) / 64;
    f.forward = [=](const std::vector<Tensor>& x) {
      Tensor terms = Tensor::empty({c.items, 2}, DType::F32, kCpu), none;
      reference_backend().diffusion_loss(terms, none, model_of(x[0]), in.x0, in.xt, in.noise,
                                         weighted([](size_t) { return 1; }));
      return terms.slice_last(of_variance ? 1 : 0, 1);
    };
    f.backward = [=](const std::vector<Tensor>& x, const Tensor& dy) {
      Tensor terms = Tensor::empty({c.items, 2}, DType::F32, kCpu);
      Tensor dmodel = Tensor::empty({c.items, 3, 4, 6}, DType::F32, kCpu);
      const auto weights = reference::load(dy);
      reference_backend().diffusion_loss(terms, dmodel, model_of(x[0]), in.x0, in.xt, in.noise,
                                         weighted([&](size_t i) { return weights[i]; }));
      return std::vector<Tensor>{ops::copy(dmodel.slice_last(of_variance ? 3 : 0, 3), DType::F32)};
    };
    return f;
  });
}

// The gradient of m comes from the main term alone, that of v from the variational term alone.
void check_separation(const KernelBackend& kernels, DType dtype) {
  Backend& b = kernels.get();
  Random random("separation");
  const LossCase c{dtype, 5, 7, 9, 3};
  const LossInputs in = inputs(random, c);
  const auto gradient = [&](bool main, bool variational) {
    DiffusionLoss p = in.p;
    for (LossSample& s : p.samples) {
      if (!main) s.weight = 0;
      if (!variational) s.variational_weight = 0;
    }
    Tensor terms = Tensor::empty({c.items, 2}, DType::F32, kCpu);
    Tensor dmodel = Tensor::empty(in.model.shape(), dtype, kCpu);
    b.diffusion_loss(terms, dmodel, in.model, in.x0, in.xt, in.noise, p);
    return dmodel;
  };
  const Tensor both = gradient(true, true), main = gradient(true, false), variational = gradient(false, true);
  for (const std::string& error : {different_bits(both.slice_last(0, 3), main.slice_last(0, 3)),
                                   different_bits(both.slice_last(3, 3), variational.slice_last(3, 3))})
    if (!error.empty()) fail_case("%s", error.c_str());
  for (double v : reference::load(main.slice_last(3, 3))) CHECK(v == 0);
  for (double v : reference::load(variational.slice_last(0, 3))) CHECK(v == 0);
}

const Registration losses([](Suite& suite) {
  for (const KernelBackend& kernels : kernel_backends()) {
    for (bool terms_only : {true, false})
      suite.add(format("diffusion_loss golden%s isa=%s", terms_only ? " terms only" : "", kernels.name.c_str()),
                [=] { check_golden(kernels, terms_only); });
    for (DType dtype : {DType::F32, DType::BF16})
      suite.add(format("diffusion_loss separation %s isa=%s", dtype_name(dtype), kernels.name.c_str()),
                [=] { check_separation(kernels, dtype); });
  }
  for (DType dtype : {DType::F32, DType::BF16})
    for (Main main : {Main::Mse, Main::Huber})
      for (Layout layout : {Layout::Dense, Layout::Strided}) {
        add_loss(suite, {dtype, 6, 5, 7, 3, true, main, layout});
        add_loss(suite, {dtype, 2, 5, 7, 3, false, main, layout});
        add_loss(suite, {dtype, 1, 1, 1, 1, true, main, layout});
        add_loss(suite, {dtype, 2, 33, 31, 3, true, main, layout});
        add_loss(suite, {dtype, 3, 4, 4, 70, true, main, layout});
      }
  add_loss(suite, {DType::F32, 70, 2, 2, 3, true, Main::Mse, Layout::Dense});
  for (Layout layout : {Layout::Dense, Layout::Strided}) {
    for (const Shape& shape : {Shape{3, 5, 7, 3}, Shape{1, 1, 1, 1}, Shape{2, 64, 65, 5}, Shape{5, 3, 33}})
      add_blend(suite, shape, layout);
    add_blend(suite, {3, 20000}, layout);
    add_blend(suite, {70, 5}, layout);  // more items than coefficients fit the parameters of a CUDA kernel
  }
  for (Main main : {Main::Mse, Main::Huber}) add_difference(suite, false, main, 500);
  for (int t : {0, 1, 20, 500, 999}) add_difference(suite, true, Main::Mse, t);
});

}  // namespace
}  // namespace df::test
