// 3×3 convolutions by the forms of Winograd against the oracle, with a tolerance that follows the transforms.
#include <array>
#include <cmath>

#include "cpu/reference/values.h"
#include "golden.h"
#include "ops/ops.h"
#include "product_case.h"
#include "winograd_transforms.h"

namespace df::test {
namespace {

using Form = WinogradTransform;
constexpr double kBfloat = 0x1p-8;  // unit roundoff of bfloat16

bool exists(const Form& form, DType dtype, const std::string& isa) {
  if (isa == "reference" || (form.rounds && isa != "avx512bf16")) return false;
  return dtype == DType::BF16 || form.algorithm == ConvAlgorithm::WinogradF4;
}

// Float32 roundings on the way of one product to the result, for P pairs of points, per dimension: P and one of a
// coefficient in the input transform, 2 and one of a coefficient in that of the weights, P + 1 and one of a coefficient
// in that of the products.
double transform_roundings(const Form& form) { return 2 * (form.tile + 6); }

// Each rounding is at most eps times the magnitude of what it rounds; the product and its sum as usual
// (accumulation_error, with the epilogue). All magnitudes are bounded by |A|ᵀ[Σ (|G||g||G|ᵀ) ⊙ (|B|ᵀ|d||B|)]|A| (as in the
// analysis of Barabasz et al. 2020).
Tolerance winograd_tolerance(const Form& form) {
  return [form](Expected& expected, const ProductInputs& in) {
    const WinogradMagnitudes magnitudes(form);
    const Shape shape = expected.values.shape();
    const int64_t items = shape[0], height = shape[1], width = shape[2], out = shape[3], channels = in.x.dim(3);
    const int64_t tile = form.tile, window = form.window(), positions = form.positions();
    const auto x = reference::load(in.x), w = reference::load(in.w), bias = reference::load(in.e.bias),
               residual = reference::load(in.e.residual);
    std::vector<double> u(size_t(out * channels * positions)), v(size_t(channels * positions));
    for (int64_t o = 0; o < out; o++)
      for (int64_t c = 0; c < channels; c++) {
        double g[9];
        for (int64_t t = 0; t < 9; t++) g[t] = std::abs(w[size_t((o * 9 + t) * channels + c)]);
        sandwich(magnitudes.g, g, &u[size_t((o * channels + c) * positions)]);
      }
    const double factor = accumulation_error(channels) + transform_roundings(form) * kFloat +
                          (form.rounds ? 2 * kBfloat + kBfloat * kBfloat : 0);
    expected.error.assign(size_t(shape.numel()), 0);
    expected.may_be_non_finite.assign(size_t(shape.numel()), false);
    std::vector<double> d(size_t(positions), 0.0), sum(size_t(tile * tile));
    for (int64_t n = 0; n < items; n++)
      for (int64_t y0 = 0; y0 < height; y0 += tile)
        for (int64_t x0 = 0; x0 < width; x0 += tile) {
          bool finite = true;
          for (int64_t c = 0; c < channels; c++) {
            for (int64_t i = 0; i < positions; i++) {
              const int64_t iy = y0 - 1 + i / window, ix = x0 - 1 + i % window;
              const bool inside = iy >= 0 && ix >= 0 && iy < height && ix < width;
              const double value = inside ? x[size_t(((n * height + iy) * width + ix) * channels + c)] : 0;
              finite = finite && std::isfinite(value);
              d[size_t(i)] = std::isfinite(value) ? std::abs(value) : 0;
            }
            sandwich(magnitudes.b, d.data(), &v[size_t(c * positions)]);
          }
          for (int64_t o = 0; o < out; o++) {
            std::vector<double> m(size_t(positions), 0.0);
            for (int64_t c = 0; c < channels; c++)
              for (int64_t i = 0; i < positions; i++)
                m[size_t(i)] += u[size_t((o * channels + c) * positions + i)] * v[size_t(c * positions + i)];
            sandwich(magnitudes.a, m.data(), sum.data());
            for (int64_t i = 0; i < tile * tile; i++) {
              const int64_t oy = y0 + i / tile, ox = x0 + i % tile;
              if (oy >= height || ox >= width) continue;
              const size_t at = size_t(((n * height + oy) * width + ox) * out + o);
              const double rest = (bias.empty() ? 0 : std::abs(bias[size_t(o)])) +
                                  (residual.empty() ? 0 : std::abs(residual[at]));
              expected.error[at] = factor * (sum[size_t(i)] + rest) * std::abs(in.e.scale) + kTiny;
              expected.may_be_non_finite[at] = !finite;
            }
          }
        }
  };
}

struct ImageShape {
  int64_t items, height, width, in, out;
};

std::string describe(const Form& form, const ImageShape& s) {
  return format("winograd %s n=%lld h=%lld w=%lld in=%lld out=%lld ", form.name, (long long)s.items, (long long)s.height,
                (long long)s.width, (long long)s.in, (long long)s.out);
}

void add_winograd(Suite& suite, const Form& form, const ImageShape& s, const ProductCase& c) {
  const Conv2dParams p{1, 1, form.algorithm};
  add_op_case(suite, describe(form, s) + describe(c), [=](Random& random) {
    OpCall call = product(
        random, c, {s.items, s.height, s.width, s.in}, {s.out, 3, 3, s.in}, {s.items, s.height, s.width, s.out},
        winograd_tolerance(form),
        [p](Backend& b, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) { b.conv2d(y, x, w, p, e); },
        [p](const Tensor& x, const Weight& w, const Epilogue& e) { return ops::conv2d(x, w, p, e); });
    call.product = false;  // no CUDA kernel has these forms: one that sums directly is enough
    return call;
  });
}

void add_cases(Suite& suite, const Form& form, DType dtype) {
  const auto add = [&](const ImageShape& s, const ProductCase& c) { add_winograd(suite, form, s, c); };
  const ProductCase plain{dtype}, bare{dtype, Layout::Dense, false};
  const ProductCase full{dtype, Layout::Strided, true, true, 0.7071f};
  const ProductCase poisoned{dtype, Layout::Strided, true, true, 0.5f, true};
  for (int64_t side : {1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17}) add({1, side, side, 8, 16}, full);
  for (int64_t in : {1, 2, 3, 5, 15, 16, 17, 32, 33, 70}) add({2, 5, 6, in, 18}, full);
  for (int64_t out : {1, 3, 6, 8, 15, 17, 31, 33, 63, 64, 65, 130}) add({2, 6, 5, 10, out}, full);
  add({2, 1, 9, 12, 20}, plain);
  add({2, 9, 1, 12, 20}, bare);
  add({1, 32, 33, 16, 32}, plain);
  add({3, 8, 8, 64, 64}, bare);
  add({3, 31, 34, 20, 12}, full);        // beyond one block of tiles of F4 and F2
  add({2, 41, 50, 4, 5}, full);          // and of F8
  add({2, 5, 7, 2816 + 2112, 9}, full);  // beyond one K block
  add({2, 9, 6, 96, 16}, {dtype, Layout::Dense, true, true, 1, false, true});
  add({2, 7, 9, 24, 33}, {dtype, Layout::Dense, true, false, 1, true});
  add({1, 13, 12, 18, 5}, poisoned);
  add({3, 1, 1, 7, 5}, poisoned);
}

const Registration cases([](Suite& suite) {
  for (const Form& form : kWinogradTransforms)
    for (DType dtype : {DType::F32, DType::BF16})
      if (exists(form, dtype, "avx512bf16")) add_cases(suite, form, dtype);
  for (DType dtype : {DType::F32, DType::BF16})
    add_winograd(suite, kWinogradTransforms[0], {1, 2, 2, 33000, 3}, {dtype});  // beyond the row of zeros
});

// Root mean square of the relative error for normal x and w, each rounding an independent error of variance
// (eps·value)² / 3 and carried to the result; the sum over n channels has partial sums of 1/n … n/n of its variance, hence
// n/2 roundings of its full size.
double predicted_error(const Form& form, int64_t channels) {
  const double roundings = kFloat * kFloat * (transform_roundings(form) + double(channels) / 2);
  return normal_amplification(form) * std::sqrt((roundings + (form.rounds ? 2 * kBfloat * kBfloat : 0)) / 3);
}

// The residual is the negated result, rounded to the dtype: what is left is so small that its rounding (in bfloat16, eps²
// / 3 of the result) does not hide the error of the convolution.
void check_error(const Form& form, DType dtype, const char* isa, int64_t channels) {
  Random random("normal");
  const Shape shape{1, 24, 24, 32};
  const Tensor x = normal_tensor(random, {1, 24, 24, channels}, dtype), w = normal_tensor(random, {32, 3, 3, channels}, dtype);
  const Tensor want = oracle(shape, [&](Backend& b, Tensor& y) {
    b.conv2d(y, exact(x), b.pack(exact(w), DType::F32), {1, 1}, {});
  });
  Tensor negative = Tensor::empty(shape, dtype, kCpu), y = Tensor::empty(shape, dtype, kCpu);
  fill(negative, [&](int64_t i) { return -want.data<float>()[i]; });
  Backend& backend = cpu_backend(isa);
  backend.conv2d(y, x, backend.pack(w, dtype), {1, 1, form.algorithm}, {.residual = negative});
  const auto rest = reference::load(y), subtracted = reference::load(negative);
  Tensor got = Tensor::empty(shape, DType::F32, kCpu);
  fill(got, [&](int64_t i) { return rest[size_t(i)] - subtracted[size_t(i)]; });
  check_close("winograd", got, want,
              predicted_error(form, channels) + (dtype == DType::BF16 ? kBfloat * kBfloat / 3 : 0));
}

const Registration errors([](Suite& suite) {
  for (const CpuIsa& isa : cpu_isas())
    for (const Form& form : kWinogradTransforms)
      for (DType dtype : {DType::F32, DType::BF16}) {
        if (!exists(form, dtype, isa.name)) continue;
        for (int64_t channels : {16, 320})
          suite.add(format("winograd error of normal data %s %s in=%lld isa=%s", form.name, dtype_name(dtype),
                           (long long)channels, isa.name), [=] {
            if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
            check_error(form, dtype, isa.name, channels);
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
      for (ConvAlgorithm algorithm : {ConvAlgorithm::Default, ConvAlgorithm::Fast, ConvAlgorithm::WinogradF4,
                                      ConvAlgorithm::WinogradF8, ConvAlgorithm::WinogradF2Bf16,
                                      ConvAlgorithm::WinogradF4Bf16})
        suite.add(format("winograd batch independence %s algorithm=%d isa=%s", dtype_name(dtype), int(algorithm),
                         isa.name), [=] {
          if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
          check_batch_independence(cpu_backend(isa.name), dtype, algorithm);
        });

  // The choice depends on one image and the weight, as its scratch memory shows; in between, several may be right.
  for (const CpuIsa& isa : cpu_isas())
    suite.add(std::string("winograd is chosen where it pays isa=") + isa.name, [=] {
      if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
      Backend& backend = cpu_backend(isa.name);
      const auto bytes = [&](int64_t items, int64_t side, int64_t in, DType dtype, ConvAlgorithm algorithm) {
        Weight w;
        w.out = 320, w.kernel_h = w.kernel_w = 3, w.in = in, w.dtype = dtype;
        return backend.conv2d_scratch_bytes({items, side, side, in}, w, {1, 1, algorithm});
      };
      for (DType dtype : {DType::F32, DType::BF16})
        for (int64_t items : {1, 2, 9}) {
          const auto chosen = [&](ConvAlgorithm algorithm, int64_t side, const Form& form) {
            return bytes(items, side, 320, dtype, algorithm) == bytes(items, side, 320, dtype, form.algorithm) &&
                   (bytes(items, side, 320, dtype, algorithm) > 0) == exists(form, dtype, isa.name);
          };
          const Form &f4 = kWinogradTransforms[0], &f8 = kWinogradTransforms[1], &f4_bf16 = kWinogradTransforms[3];
          const Form& accurate = exists(f8, dtype, isa.name) ? f8 : f4;
          const Form& fastest = exists(f4_bf16, dtype, isa.name) ? f4_bf16 : accurate;
          for (int64_t side : {24, 32, 64, 256}) {
            CHECK(chosen(ConvAlgorithm::Default, side, accurate));
            CHECK(chosen(ConvAlgorithm::Fast, side, fastest));
          }
          CHECK(chosen(ConvAlgorithm::Default, 12, f4));
          for (ConvAlgorithm algorithm : {ConvAlgorithm::Default, ConvAlgorithm::Fast}) {
            for (int64_t side : {1, 2}) CHECK(bytes(items, side, 320, dtype, algorithm) == 0);
            CHECK(bytes(items, 64, 3, dtype, algorithm) == 0);
          }
          CHECK(bytes(items, 64, 320, dtype, ConvAlgorithm::Direct) == 0);
          for (const Form& form : kWinogradTransforms)
            CHECK((bytes(items, 1, 1, dtype, form.algorithm) > 0) == exists(form, dtype, isa.name));
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
        for (ConvAlgorithm algorithm : {ConvAlgorithm::WinogradF4, ConvAlgorithm::Default, ConvAlgorithm::Fast}) {
          backend.conv2d(other, x, w, {stride, padding, algorithm}, {});
          const std::string error = different_bits(direct, other);
          if (!error.empty()) fail_case("kernel %d stride %d padding %d: %s", kernel, stride, padding, error.c_str());
        }
      }
    });
});

}  // namespace
}  // namespace df::test
