// 3×3 convolutions by Winograd's F(4×4, 3×3) against the oracle, with a tolerance that follows the transforms.
#include <array>
#include <cmath>

#include "cpu/reference/values.h"
#include "golden.h"
#include "ops/ops.h"
#include "product_case.h"
#include "winograd_magnitudes.h"

namespace df::test {
namespace {

constexpr Conv2dParams kWinograd{1, 1, ConvAlgorithm::Winograd};

// Roundings on the way of one product to the result, each at most eps times the magnitude of what it rounds: input
// transform 2 per dimension, weight transform 3 and one of a coefficient per dimension, the product and its sum as
// usual (accumulation_error, with the epilogue), output transform 3 per dimension. All magnitudes are bounded by
// |A|ᵀ[Σ (|G||g||G|ᵀ) ⊙ (|B|ᵀ|d||B|)]|A| (as in the analysis of Barabasz et al. 2020).
constexpr double kTransformRoundings = 2 * 2 + 4 * 2 + 3 * 2;

void winograd_tolerance(Expected& expected, const ProductInputs& in) {
  static const WinogradMagnitudes magnitudes;
  const Shape shape = expected.values.shape();
  const int64_t items = shape[0], height = shape[1], width = shape[2], out = shape[3], channels = in.x.dim(3);
  const auto x = reference::load(in.x), w = reference::load(in.w), bias = reference::load(in.e.bias),
             residual = reference::load(in.e.residual);
  std::vector<double> u(size_t(out * channels) * 36), v(size_t(channels) * 36);
  for (int64_t o = 0; o < out; o++)
    for (int64_t c = 0; c < channels; c++) {
      double g[9];
      for (int64_t t = 0; t < 9; t++) g[t] = std::abs(w[size_t((o * 9 + t) * channels + c)]);
      sandwich(magnitudes.g, g, &u[size_t(o * channels + c) * 36]);
    }
  const double factor = accumulation_error(channels) + kTransformRoundings * kFloat;
  expected.error.assign(size_t(shape.numel()), 0);
  expected.may_be_non_finite.assign(size_t(shape.numel()), false);
  for (int64_t n = 0; n < items; n++)
    for (int64_t y0 = 0; y0 < height; y0 += kTile)
      for (int64_t x0 = 0; x0 < width; x0 += kTile) {
        bool finite = true;
        for (int64_t c = 0; c < channels; c++) {
          double d[36];
          for (int64_t i = 0; i < 36; i++) {
            const int64_t iy = y0 - 1 + i / 6, ix = x0 - 1 + i % 6;
            const bool inside = iy >= 0 && ix >= 0 && iy < height && ix < width;
            const double value = inside ? x[size_t(((n * height + iy) * width + ix) * channels + c)] : 0;
            finite = finite && std::isfinite(value);
            d[i] = std::isfinite(value) ? std::abs(value) : 0;
          }
          sandwich(magnitudes.b, d, &v[size_t(c) * 36]);
        }
        for (int64_t o = 0; o < out; o++) {
          double m[36] = {}, sum[16];
          for (int64_t c = 0; c < channels; c++)
            for (int64_t i = 0; i < 36; i++) m[i] += u[size_t(o * channels + c) * 36 + i] * v[size_t(c) * 36 + i];
          sandwich(magnitudes.a, m, sum);
          for (int64_t i = 0; i < 16; i++) {
            const int64_t oy = y0 + i / 4, ox = x0 + i % 4;
            if (oy >= height || ox >= width) continue;
            const size_t at = size_t(((n * height + oy) * width + ox) * out + o);
            const double rest = (bias.empty() ? 0 : std::abs(bias[size_t(o)])) +
                                (residual.empty() ? 0 : std::abs(residual[at]));
            expected.error[at] = factor * (sum[i] + rest) * std::abs(in.e.scale) + kTiny;
            expected.may_be_non_finite[at] = !finite;
          }
        }
      }
}

struct ImageShape {
  int64_t items, height, width, in, out;
};

std::string describe(const ImageShape& s) {
  return format("winograd n=%lld h=%lld w=%lld in=%lld out=%lld ", (long long)s.items, (long long)s.height,
                (long long)s.width, (long long)s.in, (long long)s.out);
}

void add_winograd(Suite& suite, const ImageShape& s, const ProductCase& c) {
  add_op_case(suite, describe(s) + describe(c), [=](Random& random) {
    return product(
        random, c, {s.items, s.height, s.width, s.in}, {s.out, 3, 3, s.in}, {s.items, s.height, s.width, s.out},
        winograd_tolerance,
        [](Backend& b, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) {
          b.conv2d(y, x, w, kWinograd, e);
        },
        [](const Tensor& x, const Weight& w, const Epilogue& e) { return ops::conv2d(x, w, kWinograd, e); });
  });
}

const Registration cases([](Suite& suite) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    const ProductCase plain{dtype}, bare{dtype, Layout::Dense, false};
    const ProductCase full{dtype, Layout::Strided, true, true, 0.7071f};
    const ProductCase poisoned{dtype, Layout::Strided, true, true, 0.5f, true};
    for (int64_t side : {1, 2, 3, 4, 5, 7, 8, 9, 13}) add_winograd(suite, {1, side, side, 8, 16}, full);
    for (int64_t in : {1, 2, 3, 5, 15, 16, 17, 32, 33, 70}) add_winograd(suite, {2, 5, 6, in, 18}, full);
    for (int64_t out : {1, 3, 6, 8, 15, 17, 31, 33, 63, 64, 65, 130}) add_winograd(suite, {2, 6, 5, 10, out}, full);
    add_winograd(suite, {2, 1, 9, 12, 20}, plain);
    add_winograd(suite, {2, 9, 1, 12, 20}, bare);
    add_winograd(suite, {1, 32, 33, 16, 32}, plain);
    add_winograd(suite, {3, 8, 8, 64, 64}, bare);
    add_winograd(suite, {3, 31, 34, 20, 12}, full);          // beyond one block of tiles
    add_winograd(suite, {2, 5, 7, 2816 + 2112, 9}, full);    // beyond one K block
    add_winograd(suite, {1, 2, 2, 33000, 3}, plain);         // beyond the row of zeros
    add_winograd(suite, {2, 9, 6, 96, 16}, {dtype, Layout::Dense, true, true, 1, false, true});
    add_winograd(suite, {2, 7, 9, 24, 33}, {dtype, Layout::Dense, true, false, 1, true});
    add_winograd(suite, {1, 13, 12, 18, 5}, poisoned);
    add_winograd(suite, {3, 1, 1, 7, 5}, poisoned);
  }
});

// Root mean square of the relative error for normal x and w, each rounding an independent error of variance
// (eps·value)² / 3 and carried to the result: the values are E[V²] = (B²1)(B²1)ᵀ, E[U²] = (G²1)(G²1)ᵀ per channel; the
// sum over n channels has partial sums of 1/n … n/n of its variance, hence n/2 roundings of its full size. (The points
// 0, ±1, ±2, ∞ would give 2.2 times as much.)
double predicted_error(int64_t channels) {
  const WinogradMagnitudes m;
  double amplification = 0;  // of one dimension, squared: mean over the outputs, relative to a sum of 3 products
  for (int k = 0; k < kTile; k++)
    for (int i = 0; i < kWindow; i++) {
      double b = 0, g = 0;
      for (int j = 0; j < kWindow; j++) b += m.b[i][j] * m.b[i][j];
      for (int j = 0; j < 3; j++) g += m.g[i][j] * m.g[i][j];
      amplification += m.a[k][i] * m.a[k][i] * b * g / (3 * kTile);
    }
  return amplification * kFloat * std::sqrt((kTransformRoundings + double(channels) / 2) / 3);
}

const Registration errors([](Suite& suite) {
  for (const CpuIsa& isa : cpu_isas())
    for (int64_t channels : {16, 320}) {
      suite.add(format("winograd error of normal data in=%lld isa=%s", (long long)channels, isa.name), [=] {
        if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
        Random random("normal");
        const auto normal = [&](const Shape& shape) {  // Box & Muller 1958
          Tensor t = Tensor::empty(shape, DType::F32, kCpu);
          fill(t, [&](int64_t) {
            return std::sqrt(-2 * std::log(1 - random.uniform(0, 1))) * std::cos(2 * M_PI * random.uniform(0, 1));
          });
          return t;
        };
        const Tensor x = normal({1, 24, 24, channels}), w = normal({32, 3, 3, channels});
        const auto run = [&](Backend& backend, Tensor& y) {
          backend.conv2d(y, x, backend.pack(w, DType::F32), kWinograd, {});
        };
        Tensor y = Tensor::empty({1, 24, 24, 32}, DType::F32, kCpu);
        run(cpu_backend(isa.name), y);
        check_close("winograd", y, oracle(y.shape(), run), predicted_error(channels));
      });
    }
});

// Bits of one image must not depend on what else is in the batch, nor on where its tiles fall in a block.
void check_batch_independence(Backend& backend, DType dtype, ConvAlgorithm algorithm) {
  Random random("batch");
  const Conv2dParams p{1, 1, algorithm};
  const Tensor x = random_tensor(random, {5, 22, 27, 40}, dtype, Layout::Dense);
  const Weight w = backend.pack(random_tensor(random, {24, 3, 3, 40}, dtype, Layout::Dense), dtype);
  Tensor all = Tensor::empty({5, 22, 27, 24}, dtype, kCpu);
  backend.conv2d(all, x, w, p, {});
  for (int64_t i = 0; i < 5; i++) {
    Tensor one = Tensor::empty({1, 22, 27, 24}, dtype, kCpu);
    backend.conv2d(one, x.slice_first(i, 1), w, p, {});
    const std::string error = different_bits(one, all.slice_first(i, 1));
    if (!error.empty()) fail_case("item %lld: %s", (long long)i, error.c_str());
  }
}

const Registration batches([](Suite& suite) {
  for (const CpuIsa& isa : cpu_isas())
    for (DType dtype : {DType::F32, DType::BF16})
      for (ConvAlgorithm algorithm : {ConvAlgorithm::Winograd, ConvAlgorithm::Fastest})
        suite.add(format("winograd batch independence %s algorithm=%d isa=%s", dtype_name(dtype), int(algorithm),
                         isa.name), [=] {
          if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
          check_batch_independence(cpu_backend(isa.name), dtype, algorithm);
        });

  // The choice depends on one image and the weight; in between, either may be right.
  for (const CpuIsa& isa : cpu_isas())
    suite.add(std::string("winograd is chosen where it pays isa=") + isa.name, [=] {
      if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
      Backend& backend = cpu_backend(isa.name);
      const auto chosen = [&](int64_t items, int64_t side, int64_t in, int64_t out, DType dtype,
                              ConvAlgorithm algorithm) {
        Weight w;
        w.out = out, w.kernel_h = w.kernel_w = 3, w.in = in, w.dtype = dtype;
        return backend.conv2d_scratch_bytes({items, side, side, in}, w, {1, 1, algorithm}) > 0;
      };
      const bool has_winograd = std::string(isa.name) != "reference";
      for (DType dtype : {DType::F32, DType::BF16})
        for (int64_t items : {1, 2, 9}) {
          for (int64_t side : {16, 32, 64, 256})
            CHECK(chosen(items, side, 320, 320, dtype, ConvAlgorithm::Fastest) == has_winograd);
          for (int64_t side : {1, 2, 3, 4, 5}) CHECK(!chosen(items, side, 320, 320, dtype, ConvAlgorithm::Fastest));
          CHECK(!chosen(items, 64, 3, 320, dtype, ConvAlgorithm::Fastest));
          CHECK(!chosen(items, 64, 320, 320, dtype, ConvAlgorithm::Direct));
          CHECK(chosen(items, 1, 1, 1, dtype, ConvAlgorithm::Winograd) == has_winograd);
        }
    });

  // What is not a 3×3 convolution of stride 1 and padding 1 is computed directly.
  for (const CpuIsa& isa : cpu_isas())
    suite.add(std::string("winograd of other convolutions is direct isa=") + isa.name, [=] {
      if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
      Backend& backend = cpu_backend(isa.name);
      Random random("other");
      const Tensor x = random_tensor(random, {1, 9, 8, 12}, DType::F32, Layout::Dense);
      for (const auto& [kernel, stride, padding] :
           {std::array<int, 3>{3, 2, 1}, {3, 1, 0}, {3, 1, 2}, {1, 1, 0}, {5, 1, 2}}) {
        const Weight w = backend.pack(random_tensor(random, {7, kernel, kernel, 12}, DType::F32, Layout::Dense),
                                      DType::F32);
        const Shape shape{1, (9 + 2 * padding - kernel) / stride + 1, (8 + 2 * padding - kernel) / stride + 1, 7};
        Tensor direct = Tensor::empty(shape, DType::F32, kCpu), other = Tensor::empty(shape, DType::F32, kCpu);
        backend.conv2d(direct, x, w, {stride, padding}, {});
        backend.conv2d(other, x, w, {stride, padding, ConvAlgorithm::Winograd}, {});
        const std::string error = different_bits(direct, other);
        if (!error.empty()) fail_case("kernel %d stride %d padding %d: %s", kernel, stride, padding, error.c_str());
      }
    });
});

}  // namespace
}  // namespace df::test
