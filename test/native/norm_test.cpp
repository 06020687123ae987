// group_norm, layer_norm and rms_norm against the oracle.
#include <cmath>

#include "cpu/reference/values.h"
#include "op_case.h"
#include "ops/ops.h"

namespace df::test {
namespace {

// The tolerance of y = (x - mean) * inverse * gamma + beta, statistics of n values in float32.
// c = accumulation_error(n): the mean is wrong by c * mean|x|, the variance relatively by c * K,
// K = mean(x²) / (variance + eps) (the one-pass formula; Chan, Golub & LeVeque 1983, table 1), so 1/sqrt by half of
// that; six roundings on the terms x·a, mean·a and beta.
struct NormError {
  double mean_error, inverse, relative, mean;
  NormError(double mean_x, double mean_abs, double mean_square, double eps, int64_t n, bool centred) {
    const double variance = (centred ? mean_square - mean_x * mean_x : mean_square) + eps, c = accumulation_error(n);
    mean = centred ? mean_x : 0;
    mean_error = centred ? c * mean_abs : 0;
    inverse = 1 / std::sqrt(variance);
    relative = 0.5 * c * mean_square / variance;
    if (std::isinf(mean_square)) mean_error = inverse = relative = 0;  // what stays finite in such a row is exactly 0
  }
  double operator()(double x, double gamma, double beta) const {
    const double a = std::abs(gamma) * inverse;
    return a * (mean_error + relative * std::abs(x - mean)) +
           6 * kFloat * (a * (std::abs(x) + std::abs(mean)) + std::abs(beta));
  }
};

struct GroupNormCase {
  DType dtype = DType::F32;
  int64_t items = 1, height = 2, width = 2, group_size = 5;
  int groups = 32;
  Layout layout = Layout::Dense;
  bool scale_shift = false;
  Activation activation = Activation::None;
  double mean = 0;
  bool poisoned = false;
  int rank = 4;
  double range = 1;  // small: eps counts
};

const char* activation_name(Activation a) {
  return a == Activation::Silu       ? " silu"
         : a == Activation::Gelu     ? " gelu"
         : a == Activation::GeluTanh ? " gelu_tanh"
                                     : "";
}

void add_group_norm(Suite& suite, const GroupNormCase& c) {
  const std::string name = format(
      "group_norm n=%lld h=%lld w=%lld groups=%d size=%lld %s%s%s%s%s%s%s%s", (long long)c.items, (long long)c.height,
      (long long)c.width, c.groups, (long long)c.group_size, dtype_name(c.dtype), activation_name(c.activation),
      c.scale_shift ? " scale_shift" : "", layout_name(c.layout), c.mean != 0 ? " far" : "",
      c.poisoned ? " nan" : "", c.rank == 3 ? " tokens" : "", c.range < 1 ? " small" : "");
  add_op_case(suite, name, c.dtype, [=](Random& random) {
    const int64_t channels = c.groups * c.group_size, pixels = c.height * c.width;
    const Shape shape = c.rank == 3 ? Shape{c.items, pixels, channels} : Shape{c.items, c.height, c.width, channels};
    const Tensor x = random_tensor(random, shape, c.dtype, c.layout, c.mean - c.range, c.mean + c.range);
    if (c.poisoned) poison(x);
    GroupNormParams p;
    p.groups = c.groups;
    p.activation = c.activation;
    p.gamma = random_tensor(random, {channels}, DType::F32, Layout::Dense, -2, 2);
    p.beta = random_tensor(random, {channels}, DType::F32, Layout::Dense, -1, 1);
    if (c.scale_shift) {
      p.scale = random_tensor(random, {c.items, channels}, c.dtype, Layout::Strided, -1, 1);
      p.shift = random_tensor(random, {c.items, channels}, c.dtype, Layout::Strided, -1, 1);
    }
    OpCall call;
    call.shape = shape;
    call.dtype = c.dtype;
    call.vectors = c.dtype != DType::F32 && c.layout != Layout::Strided;
    call.run = [=](Backend& b, Tensor& y) { b.group_norm(y, x, p); };
    call.op = [=](Device d) {
      GroupNormParams moved = p;
      moved.gamma = on(p.gamma, d);
      moved.beta = on(p.beta, d);
      moved.scale = on(p.scale, d);
      moved.shift = on(p.shift, d);
      return ops::group_norm(on(x, d), moved);
    };
    call.expected = [=] {
      GroupNormParams values = p;
      values.scale = exact(p.scale);
      values.shift = exact(p.shift);
      const Tensor input = exact(x);
      const Tensor y = oracle(shape, [&](Backend& b, Tensor& out) { b.group_norm(out, input, values); });
      const auto xs = reference::load(input), gamma = reference::load(p.gamma), beta = reference::load(p.beta),
                 scale = reference::load(values.scale), ys = reference::load(y);
      std::vector<double> error(xs.size());
      for (int64_t n = 0; n < c.items; n++)
        for (int g = 0; g < c.groups; g++) {
          double sum = 0, magnitudes = 0, squares = 0;
          const auto each = [&](auto f) {
            for (int64_t i = 0; i < pixels; i++)
              for (int64_t ch = g * c.group_size; ch < (g + 1) * c.group_size; ch++)
                f(size_t((n * pixels + i) * channels + ch), ch);
          };
          each([&](size_t i, int64_t) { sum += xs[i], magnitudes += std::abs(xs[i]), squares += xs[i] * xs[i]; });
          const double count = double(pixels * c.group_size);
          const NormError norm(sum / count, magnitudes / count, squares / count, double(p.eps), int64_t(count), true);
          each([&](size_t i, int64_t ch) {
            double e = norm(xs[i], gamma[size_t(ch)], beta[size_t(ch)]);
            if (c.scale_shift) {  // two more roundings, on values of at most the size of a*x + beta and of the result
              const double s = std::abs(1 + scale[size_t(n * channels + ch)]);
              e = e * s +
                  4 * kFloat *
                      (1 +
                       s * (std::abs(gamma[size_t(ch)]) * norm.inverse * (std::abs(xs[i]) + std::abs(norm.mean)) + 1));
            }
            // activations have slopes of at most 1.13; their own error: see elementwise_test.cpp
            if (c.activation != Activation::None)
              e = 1.13 * e + 4 * kFloat * (std::abs(ys[i]) + 1 + std::abs(gamma[size_t(ch)]));
            error[i] = e + kTiny;
          });
        }
      return Expected{y, error};
    };
    return call;
  });
}

void add_row_norm(Suite& suite, bool rms, DType dtype, int64_t rows, int64_t channels, Layout layout, double mean,
                  bool poisoned = false, double range = 1) {
  const std::string name = format(
      "%s rows=%lld channels=%lld %s%s%s%s%s", rms ? "rms_norm" : "layer_norm", (long long)rows, (long long)channels,
      dtype_name(dtype), layout == Layout::Strided ? " strided" : "", mean != 0 ? " far" : "", poisoned ? " nan" : "",
      range < 1 ? " small" : "");
  add_op_case(suite, name, dtype, [=](Random& random) {
    const Tensor x = random_tensor(random, {1, rows, channels}, dtype, layout, mean - range, mean + range);
    if (poisoned) poison(x);
    const Tensor gamma = random_tensor(random, {channels}, DType::F32, Layout::Dense, -2, 2);
    const Tensor beta = random_tensor(random, {channels}, DType::F32, Layout::Dense, -1, 1);
    const float eps = rms ? 1e-6f : 1e-5f;
    const auto apply = [=](Backend& b, Tensor& y, const Tensor& in) {
      if (rms) b.rms_norm(y, in, gamma, eps);
      else b.layer_norm(y, in, gamma, beta, eps);
    };
    OpCall call;
    call.shape = x.shape();
    call.dtype = dtype;
    call.run = [=](Backend& b, Tensor& y) { apply(b, y, x); };
    call.op = [=](Device d) {
      return rms ? ops::rms_norm(on(x, d), on(gamma, d), eps)
                 : ops::layer_norm(on(x, d), on(gamma, d), on(beta, d), eps);
    };
    call.expected = [=] {
      const Tensor input = exact(x);
      const auto xs = reference::load(input), g = reference::load(gamma), b = reference::load(beta);
      std::vector<double> error(xs.size());
      for (int64_t r = 0; r < rows; r++) {
        double sum = 0, magnitudes = 0, squares = 0;
        for (int64_t i = r * channels; i < (r + 1) * channels; i++)
          sum += xs[size_t(i)], magnitudes += std::abs(xs[size_t(i)]), squares += xs[size_t(i)] * xs[size_t(i)];
        const double n = double(channels);
        const NormError norm(sum / n, magnitudes / n, squares / n, double(eps), channels, !rms);
        for (int64_t c = 0; c < channels; c++)
          error[size_t(r * channels + c)] =
              norm(xs[size_t(r * channels + c)], g[size_t(c)], rms ? 0 : b[size_t(c)]) + kTiny;
      }
      return Expected{oracle(x.shape(), [&](Backend& backend, Tensor& y) { apply(backend, y, input); }), error};
    };
    return call;
  });
}

const Registration norms([](Suite& suite) {
  for (DType dtype : kComputed) {
    // channels per group of IF-I-M, L, XL, IF-II and their concatenations
    for (int64_t size : {5, 6, 10, 18, 22, 44, 66, 110, 154, 176}) {
      add_group_norm(suite, {dtype, 2, 3, 2, size, 32, Layout::Strided, true, Activation::Silu});
      add_group_norm(suite, {dtype, 1, 2, 2, size});
    }
    for (int64_t size : {1, 2, 3, 4, 7, 8, 15, 16, 17, 33}) {
      add_group_norm(suite, {dtype, 1, 1, 7, size, 3, Layout::Strided, false, Activation::Gelu});
      add_group_norm(suite, {dtype, 2, 3, 3, size, 4, Layout::Dense, true, Activation::None});
    }
    for (Activation a : {Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh})
      add_group_norm(suite, {dtype, 2, 4, 5, 6, 32, Layout::Dense, false, a});
    add_group_norm(suite, {dtype, 1, 1, 1, 4, 8});                                         // one pixel
    add_group_norm(suite, {dtype, 1, 1, 1, 1, 5});                                         // variance 0: beta
    add_group_norm(suite,
                   {dtype, 1, 40, 40, 2, 32, Layout::Dense, false, Activation::Silu});  // beyond one block of pixels
    add_group_norm(suite, {dtype, 1, 17, 31, 3, 32, Layout::Strided, true, Activation::Silu});
    add_group_norm(suite, {dtype, 2, 7, 11, 8, 32, Layout::Dense, false, Activation::None, 10});
    add_group_norm(suite, {dtype, 2, 7, 11, 4, 32, Layout::Dense, false, Activation::None, 0, false, 3});  // (N, L, C)
    add_group_norm(suite, {dtype, 1, 2, 2, (1408 + 704) / 32, 32, Layout::Dense, false, Activation::Silu});
    add_group_norm(suite, {dtype, 1, 2, 2, (2816 + 2112) / 32, 32, Layout::Strided, false, Activation::Silu});
    add_group_norm(suite, {dtype, 3, 3, 3, 6, 32, Layout::Dense, false, Activation::Silu, 0, true});
    add_group_norm(suite, {dtype, 3, 3, 3, 6, 32, Layout::Dense, true, Activation::Gelu, 0, true});
    add_group_norm(suite, {dtype, 2, 3, 3, 6, 32, Layout::Dense, false, Activation::None, 0, false, 4, 4e-3});
    add_group_norm(suite, {dtype, 2, 9, 11, 10, 32, Layout::Aligned, true, Activation::Gelu, 10});
    add_group_norm(suite, {dtype, 3, 3, 3, 6, 32, Layout::Aligned, true, Activation::Gelu, 0, true});
    add_group_norm(suite, {dtype, 1, 130, 128, 4});  // the most slabs of pixels
    for (bool rms : {false, true}) {
      for (int64_t channels : {1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 129, 768, 4096}) {
        add_row_norm(suite, rms, dtype, 5, channels, Layout::Dense, 0);
        add_row_norm(suite, rms, dtype, 3, channels, Layout::Strided, 0);
      }
      add_row_norm(suite, rms, dtype, 70, 96, Layout::Dense, 10);
      add_row_norm(suite, rms, dtype, 1, 64, Layout::Dense, 0);
      add_row_norm(suite, rms, dtype, 7, 40, Layout::Dense, 0, true);
      add_row_norm(suite, rms, dtype, 7, 40, Layout::Dense, 0, false, 2e-3);
    }
  }
});

}  // namespace
}  // namespace df::test
