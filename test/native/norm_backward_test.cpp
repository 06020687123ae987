// group_norm_backward, layer_norm_backward and rms_norm_backward against the oracle, the oracle against differences.
#include <cmath>

#include "backward_case.h"
#include "cpu/reference/values.h"
#include "finite_difference.h"
#include "weight_gradient_case.h"

namespace df::test {
namespace {

// x̂ of one group or row: its statistics and how wrong float32 arithmetic may make them (norm_test.cpp, NormError).
struct Normalization {
  double mean = 0, inverse = 0, mean_error = 0, relative = 0;
  Normalization(const std::vector<double>& xs, double eps, bool centred) {
    double sum = 0, magnitudes = 0, squares = 0;
    for (double v : xs) sum += v, magnitudes += std::abs(v), squares += v * v;
    const double n = double(xs.size()), c = accumulation_error(int64_t(xs.size()));
    if (centred) mean = sum / n, mean_error = c * magnitudes / n;
    const double variance = squares / n - mean * mean + eps;
    inverse = 1 / std::sqrt(variance);
    relative = 0.5 * c * squares / n / variance;
  }
  double xhat(double x) const { return (x - mean) * inverse; }
  double error(double x) const {
    return inverse * (mean_error + relative * std::abs(x - mean) + 3 * kFloat * (std::abs(x) + std::abs(mean)));
  }
};

// A sum: its value, the size of its terms and the error that its terms bring in.
struct Sum {
  double value = 0, size = 0, error = 0;
  void add(double v, double e) { value += v, size += std::abs(v), error += e; }
  double total_error(int64_t terms) const { return error + accumulation_error(terms) * size; }
};

// dx = inverse * (d - mean(d) - x̂ * mean(d * x̂)) for d known with an error, over one group or row.
std::vector<double> dx_error(const Normalization& norm, const std::vector<double>& x, const std::vector<double>& d,
                             const std::vector<double>& d_error, bool centred) {
  Sum sum, product;
  const int64_t n = int64_t(x.size());
  for (size_t i = 0; i < x.size(); i++) {
    const double xhat = norm.xhat(x[i]);
    sum.add(d[i], d_error[i]);
    product.add(d[i] * xhat, d_error[i] * std::abs(xhat) + std::abs(d[i]) * norm.error(x[i]));
  }
  const double m = centred ? sum.value / double(n) : 0, k = product.value / double(n);
  const double m_error = centred ? sum.total_error(n) / double(n) : 0, k_error = product.total_error(n) / double(n);
  std::vector<double> error;
  for (size_t i = 0; i < x.size(); i++) {
    const double xhat = std::abs(norm.xhat(x[i])), far = norm.inverse * (std::abs(x[i]) + std::abs(norm.mean));
    const double size = std::abs(d[i]) + std::abs(m) + xhat * std::abs(k);
    error.push_back(norm.inverse * (d_error[i] + m_error + xhat * k_error + norm.error(x[i]) * std::abs(k) +
                                    norm.relative * size + 6 * kFloat * (size + far * std::abs(k))) +
                    kTiny);
  }
  return error;
}

struct GroupNormCase {
  DType dtype = DType::F32;
  int64_t items = 1, height = 2, width = 2, group_size = 5;
  int groups = 32;
  Layout layout = Layout::Dense;
  bool scale_shift = false;
  Activation activation = Activation::None;
  double mean = 0;
  enum class Poison { None, X, Dy } poison = Poison::None;
  int rank = 4;
};

const std::vector<std::string> kGroupNormResults = {"dx", "dgamma", "dbeta", "dscale", "dshift"};

const char* activation_name(Activation a) {
  return a == Activation::Silu       ? " silu"
         : a == Activation::Gelu     ? " gelu"
         : a == Activation::GeluTanh ? " gelu_tanh"
                                     : "";
}

std::string describe(const GroupNormCase& c) {
  const char* const poisons[] = {"", " nan_x", " nan_dy"};
  return format("group_norm_backward n=%lld h=%lld w=%lld groups=%d size=%lld %s%s%s%s%s%s%s", (long long)c.items,
                (long long)c.height, (long long)c.width, c.groups, (long long)c.group_size, dtype_name(c.dtype),
                activation_name(c.activation), c.scale_shift ? " scale_shift" : "",
                layout_name(c.layout), c.mean != 0 ? " far" : "", poisons[int(c.poison)],
                c.rank == 3 ? " tokens" : "");
}

void run_group_norm(Backend& backend, const std::vector<Gradient>& g, const Tensor& dy, const Tensor& x,
                    const GroupNormParams& p) {
  backend.group_norm_backward(g[0], g[1].into, g[2].into, g[3], g[4], dy, x, p);
}

std::vector<std::vector<double>> group_norm_errors(const Tensor& dy, const Tensor& x, const GroupNormParams& p) {
  const int64_t items = x.dim(0), channels = x.dim(-1), pixels = x.rows() / items, size = channels / p.groups;
  const auto xs = reference::load(x), dys = reference::load(dy), gamma = reference::load(p.gamma),
             beta = reference::load(p.beta), scale = reference::load(p.scale), shift = reference::load(p.shift);
  std::vector<double> dx(xs.size());
  std::vector<Sum> sums(size_t(items * channels)), products(sums.size());  // Σg, Σ g * x̂
  for (int64_t n = 0; n < items; n++)
    for (int64_t group = 0; group < p.groups; group++) {
      std::vector<size_t> at;
      std::vector<double> own, d, d_error;
      for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = group * size; c < (group + 1) * size; c++) at.push_back(size_t((n * pixels + i) * channels + c));
      for (size_t i : at) own.push_back(xs[i]);
      const Normalization norm(own, double(p.eps), true);
      for (size_t i : at) {
        const size_t c = i % size_t(channels), nc = size_t(n * channels) + c;
        const double f = scale.empty() ? 1 : 1 + scale[nc], t = shift.empty() ? 0 : shift[nc];
        const double xhat = norm.xhat(xs[i]), v = (xhat * gamma[c] + beta[c]) * f + t;
        // of the argument: that of x̂ and six roundings of its terms; activations have second derivatives of at most
        // 0.8, and their first, up to 1.13, is wrong by 4 units (kernels/math.h)
        const double v_error = std::abs(gamma[c] * f) * norm.error(xs[i]) +
                               6 * kFloat * (std::abs(f) * (std::abs(gamma[c] * xhat) + std::abs(beta[c])) + std::abs(t));
        const bool linear = p.activation == Activation::None;
        const double g = dys[i] * reference::activation_derivative(v, p.activation);
        const double g_error = linear ? 0 : std::abs(dys[i]) * (0.8 * v_error + 6 * kFloat);
        sums[nc].add(g, g_error);
        products[nc].add(g * xhat, g_error * std::abs(xhat) + std::abs(g) * norm.error(xs[i]));
        d.push_back(g * gamma[c] * f);
        d_error.push_back(std::abs(gamma[c] * f) * (g_error + 3 * kFloat * std::abs(g)));
      }
      const auto error = dx_error(norm, own, d, d_error, true);
      for (size_t i = 0; i < at.size(); i++) dx[at[i]] = error[i];
    }
  std::vector<double> dscale, dshift, dgamma(static_cast<size_t>(channels)), dbeta(dgamma.size());
  for (size_t nc = 0; nc < sums.size(); nc++) {
    const size_t c = nc % size_t(channels);
    const double f = scale.empty() ? 1 : std::abs(1 + scale[nc]);
    const double sum = sums[nc].total_error(pixels), product = products[nc].total_error(pixels);
    dscale.push_back(std::abs(gamma[c]) * product + std::abs(beta[c]) * sum + kTiny);
    dshift.push_back(sum + kTiny);
    // over the items, at most `items` roundings
    dgamma[c] += f * (product + kFloat * double(items + 2) * products[nc].size) + kTiny;
    dbeta[c] += f * (sum + kFloat * double(items + 2) * sums[nc].size) + kTiny;
  }
  return {dx, dgamma, dbeta, dscale, dshift};
}

GroupNormParams group_norm_params(Random& random, int groups, int64_t items, int64_t channels, DType dtype,
                                  bool scale_shift, Activation activation) {
  GroupNormParams p;
  p.groups = groups;
  p.activation = activation;
  p.gamma = random_tensor(random, {channels}, DType::F32, Layout::Dense, -2, 2);
  p.beta = random_tensor(random, {channels}, DType::F32, Layout::Dense, -1, 1);
  if (scale_shift) {
    p.scale = random_tensor(random, {items, channels}, dtype, Layout::Strided, -1, 1);
    p.shift = random_tensor(random, {items, channels}, dtype, Layout::Strided, -1, 1);
  }
  return p;
}

void add_group_norm(Suite& suite, const GroupNormCase& c) {
  auto names = kGroupNormResults;
  if (!c.scale_shift) names.resize(3);
  add_backward_cases(suite, describe(c), names, [=](Random& random) {
    const int64_t channels = c.groups * c.group_size, pixels = c.height * c.width;
    const Shape shape = c.rank == 3 ? Shape{c.items, pixels, channels} : Shape{c.items, c.height, c.width, channels};
    const Tensor x = random_tensor(random, shape, c.dtype, c.layout, c.mean - 1, c.mean + 1);
    const Tensor dy = random_tensor(random, shape, c.dtype, other(c.layout));
    if (c.poison == GroupNormCase::Poison::X) poison(x);
    if (c.poison == GroupNormCase::Poison::Dy) poison(dy);
    const GroupNormParams p =
        group_norm_params(random, c.groups, c.items, channels, c.dtype, c.scale_shift, c.activation);
    const Tensor exact_x = exact(x), exact_dy = exact(dy);
    GroupNormParams values = p;
    values.scale = exact(p.scale);
    values.shift = exact(p.shift);
    BackwardCall call;
    call.dtype = c.dtype;
    call.vectors = c.dtype == DType::BF16 && c.layout == Layout::Aligned;
    call.results = {{"dx", shape}, {"dgamma", {channels}, true}, {"dbeta", {channels}, true}};
    if (c.scale_shift) {
      call.results.push_back({"dscale", {c.items, channels}});
      call.results.push_back({"dshift", {c.items, channels}});
    }
    const auto run = [](Backend& b, std::vector<Gradient> g, const Tensor& d, const Tensor& in,
                        const GroupNormParams& params) {
      g.resize(5);
      run_group_norm(b, g, d, in, params);
    };
    call.run = [=](Backend& b, const std::vector<Gradient>& g) { run(b, g, dy, x, p); };
    call.run_exact = [=](Backend& b, const std::vector<Gradient>& g) { run(b, g, exact_dy, exact_x, values); };
    call.errors = [=] { return group_norm_errors(exact_dy, exact_x, values); };
    return call;
  });
}

struct RowNormCase {
  bool rms = false;
  DType dtype = DType::F32;
  Shape shape;
  Layout layout = Layout::Dense;
  double mean = 0;
  bool poisoned = false;
};

void run_row_norm(Backend& backend, bool rms, const std::vector<Gradient>& g, const Tensor& dy, const Tensor& x,
                  const Tensor& gamma, float eps) {
  if (rms) backend.rms_norm_backward(g[0], g[1].into, dy, x, gamma, eps);
  else backend.layer_norm_backward(g[0], g[1].into, g[2].into, dy, x, gamma, eps);
}

std::vector<std::vector<double>> row_norm_errors(const Tensor& dy, const Tensor& x, const Tensor& gamma, float eps,
                                                 bool centred) {
  const size_t channels = size_t(x.dim(-1)), rows = size_t(x.rows());
  const auto xs = reference::load(x), dys = reference::load(dy), g = reference::load(gamma);
  std::vector<double> dx, dgamma(channels), dbeta(channels);
  std::vector<Sum> gammas(channels), betas(channels);
  for (size_t r = 0; r < rows; r++) {
    const std::vector<double> own(xs.begin() + int64_t(r * channels), xs.begin() + int64_t((r + 1) * channels));
    const Normalization norm(own, double(eps), centred);
    std::vector<double> d, d_error;
    for (size_t c = 0; c < channels; c++) {
      const double v = dys[r * channels + c];
      d.push_back(v * g[c]);
      d_error.push_back(2 * kFloat * std::abs(v * g[c]));
      gammas[c].add(v * norm.xhat(own[c]), std::abs(v) * norm.error(own[c]));
      betas[c].add(v, 0);
    }
    const auto error = dx_error(norm, own, d, d_error, centred);
    dx.insert(dx.end(), error.begin(), error.end());
  }
  for (size_t c = 0; c < channels; c++) {
    dgamma[c] = gammas[c].total_error(int64_t(rows)) + kTiny;
    dbeta[c] = betas[c].total_error(int64_t(rows)) + kTiny;
  }
  return {dx, dgamma, dbeta};
}

void add_row_norm(Suite& suite, const RowNormCase& c) {
  const std::string name =
      format("%s %s %s%s%s%s", c.rms ? "rms_norm_backward" : "layer_norm_backward", c.shape.str().c_str(),
             dtype_name(c.dtype), layout_name(c.layout), c.mean != 0 ? " far" : "",
             c.poisoned ? " nan" : "");
  std::vector<std::string> names = {"dx", "dgamma"};
  if (!c.rms) names.push_back("dbeta");
  add_backward_cases(suite, name, names, [=](Random& random) {
    const int64_t channels = c.shape[-1];
    const float eps = c.rms ? 1e-6f : 1e-5f;
    const Tensor x = random_tensor(random, c.shape, c.dtype, c.layout, c.mean - 1, c.mean + 1);
    const Tensor dy = random_tensor(random, c.shape, c.dtype, other(c.layout));
    if (c.poisoned) poison(x);
    const Tensor gamma = random_tensor(random, {channels}, DType::F32, Layout::Dense, -2, 2);
    const Tensor exact_x = exact(x), exact_dy = exact(dy);
    BackwardCall call;
    call.dtype = c.dtype;
    call.results = {{"dx", c.shape}, {"dgamma", {channels}, true}};
    if (!c.rms) call.results.push_back({"dbeta", {channels}, true});
    const bool rms = c.rms;
    call.run = [=](Backend& b, const std::vector<Gradient>& g) { run_row_norm(b, rms, g, dy, x, gamma, eps); };
    call.run_exact = [=](Backend& b, const std::vector<Gradient>& g) {
      run_row_norm(b, rms, g, exact_dy, exact_x, gamma, eps);
    };
    call.errors = [=] { return row_norm_errors(exact_dy, exact_x, gamma, eps, !rms); };
    return call;
  });
}

const Registration group_norms([](Suite& suite) {
  using Poison = GroupNormCase::Poison;
  for (DType dtype : {DType::F32, DType::BF16}) {
    // channels per group of IF-I-M, L, XL, IF-II and their concatenations
    for (int64_t size : {5, 6, 10, 18, 22, 44, 66})
      add_group_norm(suite, {dtype, 2, 3, 2, size, 32, Layout::Strided, true, Activation::Gelu});
    for (int64_t size : {1, 2, 3, 4, 7, 8, 15, 16, 17, 33}) {
      add_group_norm(suite, {dtype, 1, 1, 7, size, 3, Layout::Strided, false, Activation::Silu});
      add_group_norm(suite, {dtype, 2, 3, 3, size, 4, Layout::Dense, true, Activation::None});
    }
    for (Activation a : {Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh}) {
      add_group_norm(suite, {dtype, 3, 4, 5, 6, 32, Layout::Dense, false, a});
      add_group_norm(suite, {dtype, 2, 5, 7, 12, 8, Layout::Dense, true, a});
    }
    add_group_norm(suite, {dtype, 1, 1, 1, 4, 8, Layout::Dense, false, Activation::Gelu});  // one pixel
    add_group_norm(suite, {dtype, 1, 1, 1, 1, 5});                                          // variance 0
    add_group_norm(suite, {dtype, 1, 8, 8, 24, 32, Layout::Dense, true, Activation::Gelu});  // two slabs
    add_group_norm(suite, {dtype, 5, 17, 31, 3, 32, Layout::Strided, true, Activation::Gelu});
    add_group_norm(suite, {dtype, 2, 7, 11, 8, 32, Layout::Dense, false, Activation::Silu, 10});
    add_group_norm(suite, {dtype, 2, 7, 11, 4, 32, Layout::Dense, false, Activation::None, 0, Poison::None, 3});
    add_group_norm(suite, {dtype, 3, 3, 3, 6, 32, Layout::Dense, false, Activation::Silu, 0, Poison::X});
    add_group_norm(suite, {dtype, 3, 3, 3, 6, 32, Layout::Dense, true, Activation::Gelu, 0, Poison::X});
    add_group_norm(suite, {dtype, 3, 3, 3, 6, 32, Layout::Dense, true, Activation::Gelu, 0, Poison::Dy});
    add_group_norm(suite, {dtype, 3, 9, 11, 10, 32, Layout::Aligned, true, Activation::Gelu, 10});
    add_group_norm(suite, {dtype, 2, 5, 7, 5, 32, Layout::Aligned, false, Activation::Silu});
    add_group_norm(suite, {dtype, 1, 3, 2, 22, 32, Layout::Aligned, true, Activation::None});
    add_group_norm(suite, {dtype, 3, 3, 3, 6, 32, Layout::Aligned, true, Activation::Gelu, 0, Poison::X});
    add_group_norm(suite, {dtype, 3, 3, 3, 6, 32, Layout::Aligned, true, Activation::Gelu, 0, Poison::Dy});
    add_group_norm(suite, {dtype, 1, 90, 90, 2, 4, Layout::Dense, false, Activation::Gelu});  // the most slabs
  }
  for (int64_t items : {4, 8})
    for (bool beta : {false, true})
      add_replica_cases(
          suite, format("group_norm_backward n=%lld %s", (long long)items, beta ? "dbeta" : "dgamma"), items, {96},
          [=](Random& random) {
            const Tensor x = random_tensor(random, {items, 9, 8, 96}, DType::BF16, Layout::Dense);
            const Tensor dy = random_tensor(random, {items, 9, 8, 96}, DType::BF16, Layout::Dense);
            const GroupNormParams p = group_norm_params(random, 32, items, 96, DType::BF16, true, Activation::Gelu);
            return [=](Backend& b, Tensor& g, int64_t first, int64_t count) {
              GroupNormParams own = p;
              own.scale = p.scale.slice_first(first, count);
              own.shift = p.shift.slice_first(first, count);
              b.group_norm_backward({}, beta ? Tensor() : g, beta ? g : Tensor(), {}, {}, dy.slice_first(first, count),
                                    x.slice_first(first, count), own);
            };
          });
});

const Registration row_norms([](Suite& suite) {
  for (bool rms : {false, true}) {
    for (DType dtype : {DType::F32, DType::BF16}) {
      for (int64_t channels : {1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 129, 768, 4096}) {
        add_row_norm(suite, {rms, dtype, {2, 3, channels}});
        add_row_norm(suite, {rms, dtype, {3, 1, channels}, Layout::Strided});
      }
      add_row_norm(suite, {rms, dtype, {5, 40, 96}, Layout::Dense, 10});
      add_row_norm(suite, {rms, dtype, {3, 77, 512}});  // several slabs, and the last pair is half
      add_row_norm(suite, {rms, dtype, {7, 40}});
      add_row_norm(suite, {rms, dtype, {40}});
      add_row_norm(suite, {rms, dtype, {1, 7, 40}, Layout::Dense, 0, true});
    }
    for (int64_t items : {4, 8})
      add_replica_cases(suite, format("%s n=%lld dgamma", rms ? "rms_norm_backward" : "layer_norm_backward",
                                     (long long)items),
                       items, {512}, [=](Random& random) {
                         const Tensor x = random_tensor(random, {items, 77, 512}, DType::BF16, Layout::Dense);
                         const Tensor dy = random_tensor(random, {items, 77, 512}, DType::BF16, Layout::Dense);
                         const Tensor gamma = random_tensor(random, {512}, DType::F32, Layout::Dense);
                         return [=](Backend& b, Tensor& g, int64_t first, int64_t count) {
                           run_row_norm(b, rms, {{}, {g, true}, {}}, dy.slice_first(first, count),
                                        x.slice_first(first, count), gamma, 1e-5f);
                         };
                       });
  }
});

const Registration differences([](Suite& suite) {
  for (Activation a : {Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh})
    for (bool scale_shift : {false, true})
      add_gradient_case(
          suite, format("group_norm_backward difference%s%s", activation_name(a), scale_shift ? " scale_shift" : ""),
          [=](Random& random) {
            const GroupNormParams p = group_norm_params(random, 4, 3, 12, DType::F32, scale_shift, a);
            const auto params = [=](const std::vector<Tensor>& in) {
              GroupNormParams own = p;
              own.gamma = in[1], own.beta = in[2];
              if (scale_shift) own.scale = in[3], own.shift = in[4];
              return own;
            };
            Differentiable f;
            f.inputs = {random_tensor(random, {3, 2, 5, 12}, DType::F32, Layout::Dense), p.gamma, p.beta};
            if (scale_shift) f.inputs.insert(f.inputs.end(), {exact(p.scale), exact(p.shift)});
            f.forward = [=](const std::vector<Tensor>& in) {
              return oracle(in[0].shape(), [&](Backend& b, Tensor& y) { b.group_norm(y, in[0], params(in)); });
            };
            f.backward = [=](const std::vector<Tensor>& in, const Tensor& dy) {
              std::vector<Tensor> out;
              std::vector<Gradient> g(5);
              for (size_t i = 0; i < in.size(); i++) {
                out.push_back(Tensor::zeros(in[i].shape(), DType::F32, kCpu));
                g[i] = {out[i], i == 1 || i == 2};
              }
              run_group_norm(cpu_backend("reference"), g, dy, in[0], params(in));
              return out;
            };
            return f;
          });
  for (bool rms : {false, true})
    add_gradient_case(suite, rms ? "rms_norm_backward difference" : "layer_norm_backward difference",
                      [=](Random& random) {
                        Differentiable f;
                        f.inputs = {random_tensor(random, {3, 4, 20}, DType::F32, Layout::Dense),
                                    random_tensor(random, {20}, DType::F32, Layout::Dense)};
                        if (!rms) f.inputs.push_back(random_tensor(random, {20}, DType::F32, Layout::Dense));
                        f.forward = [=](const std::vector<Tensor>& in) {
                          return oracle(in[0].shape(), [&](Backend& b, Tensor& y) {
                            if (rms) b.rms_norm(y, in[0], in[1], 1e-6f);
                            else b.layer_norm(y, in[0], in[1], in[2], 1e-5f);
                          });
                        };
                        f.backward = [=](const std::vector<Tensor>& in, const Tensor& dy) {
                          std::vector<Tensor> out;
                          for (const Tensor& t : in) out.push_back(Tensor::zeros(t.shape(), DType::F32, kCpu));
                          run_row_norm(cpu_backend("reference"), rms,
                                       {{out[0], false}, {out[1], true}, {rms ? Tensor() : out[2], true}}, dy, in[0],
                                       in[1], rms ? 1e-6f : 1e-5f);
                          return out;
                        };
                        return f;
                      });
});

}  // namespace
}  // namespace df::test
