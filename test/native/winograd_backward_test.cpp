// Weight gradients of 3×3 convolutions by the forms of Winograd against the oracle, with a tolerance that follows the
// transforms.
#include <cmath>

#include "cpu/reference/values.h"
#include "golden.h"
#include "weight_gradient_case.h"
#include "winograd_transforms.h"

namespace df::test {
namespace {

using Form = WinogradTransform;
const Form& kF4 = kWinogradTransforms[0];
const Form& kF8 = kWinogradTransforms[1];

bool exists(const Form& form, DType dtype) { return dtype == DType::BF16 || &form == &kF4; }

// Float32 roundings on the way of one product to the result, for P pairs of points, per dimension: P and one of a
// coefficient in the transform of x, P + 1 and one of a coefficient in that of dy, P + 1 and one of a coefficient in that
// of the products.
double transform_roundings(const Form& form) { return 2 * (1.5 * form.tile + 5); }

// Each rounding is at most eps times the magnitude of what it rounds; the product and its sum as usual
// (accumulation_error). All magnitudes are bounded by |G|ᵀ[Σ (|A||dy||A|ᵀ) ⊙ (|B|ᵀ|d||B|)]|G|, the sum being over the tiles
// of all items.
GradientTolerance winograd_tolerance(const Form& form) {
  return [form](const WeightGradientInputs& in) {
    const WinogradMagnitudes magnitudes(form);
    const int64_t items = in.x.dim(0), height = in.x.dim(1), width = in.x.dim(2), channels = in.x.dim(3),
                  out = in.dy.dim(3), tile = form.tile, window = form.window(), positions = form.positions();
    const auto x = reference::load(in.x), dy = reference::load(in.dy), dw = reference::load(in.dw);
    // |value| of a pixel, 0 outside of the image and where it is not finite
    const auto at = [&](const std::vector<double>& image, int64_t n, int64_t i, int64_t j, int64_t c, int64_t of) {
      const bool inside = i >= 0 && j >= 0 && i < height && j < width;
      const double value = inside ? image[size_t(((n * height + i) * width + j) * of + c)] : 0;
      return std::isfinite(value) ? std::abs(value) : 0;
    };
    std::vector<double> products(size_t(out * channels * positions), 0.0), v(size_t(channels * positions)),
        d(static_cast<size_t>(positions)), pixels(static_cast<size_t>(positions));
    const Matrix g = magnitudes.g.transposed(), a = magnitudes.a.transposed();
    int64_t terms = 0;
    for (int64_t n = 0; n < items; n++)
      for (int64_t y0 = 0; y0 < height; y0 += tile)
        for (int64_t x0 = 0; x0 < width; x0 += tile, terms++) {
          for (int64_t c = 0; c < channels; c++) {
            for (int64_t i = 0; i < positions; i++)
              pixels[size_t(i)] = at(x, n, y0 - 1 + i / window, x0 - 1 + i % window, c, channels);
            sandwich(magnitudes.b, pixels.data(), &v[size_t(c * positions)]);
          }
          for (int64_t o = 0; o < out; o++) {
            for (int64_t i = 0; i < tile * tile; i++) pixels[size_t(i)] = at(dy, n, y0 + i / tile, x0 + i % tile, o, out);
            sandwich(a, pixels.data(), d.data());
            for (int64_t c = 0; c < channels; c++)
              for (int64_t i = 0; i < positions; i++)
                products[size_t((o * channels + c) * positions + i)] += d[size_t(i)] * v[size_t(c * positions + i)];
          }
        }
    const double factor = accumulation_error(terms) + transform_roundings(form) * kFloat;
    std::vector<double> error(dw.size());
    for (int64_t o = 0; o < out; o++)
      for (int64_t c = 0; c < channels; c++) {
        double sum[9];
        sandwich(g, &products[size_t((o * channels + c) * positions)], sum);
        for (int64_t t = 0; t < 9; t++) {
          const size_t e = size_t((o * 9 + t) * channels + c);
          error[e] = factor * (std::abs(in.scale) * sum[t] + std::abs(dw[e])) + kTiny;
        }
      }
    return error;
  };
}

struct ImageShape {
  int64_t items, height, width, in, out;
  Shape x() const { return {items, height, width, in}; }
  Shape dy() const { return {items, height, width, out}; }
  Shape dw() const { return {out, 3, 3, in}; }
};

std::string describe(const Form& form, const ImageShape& s) {
  return format("weight_gradient winograd %s n=%lld h=%lld w=%lld in=%lld out=%lld ", form.name, (long long)s.items,
                (long long)s.height, (long long)s.width, (long long)s.in, (long long)s.out);
}

void add_cases(Suite& suite, const Form& form, DType dtype) {
  const auto add = [&](const ImageShape& s, const WeightGradientCase& c) {
    // the reference backend has the direct sum only; its error is far below the tolerance
    add_op_case(suite, describe(form, s) + describe(c), [=](Random& random) {
      return weight_gradient(random, c, s.dw(), s.x(), s.dy(), {1, 1, form.algorithm}, winograd_tolerance(form));
    });
  };
  const WeightGradientCase plain{dtype}, full{dtype, Layout::Strided, -0.37f};
  const WeightGradientCase poisoned{dtype, Layout::Strided, 0.5f, true}, one_sign{dtype, Layout::Dense, 1, false, true};
  for (int64_t side : {1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17}) add({2, side, side, 8, 16}, full);
  for (int64_t items : {1, 3, 4, 5, 6, 7, 8, 11}) add({items, 4, 5, 7, 18}, full);
  for (int64_t in : {1, 2, 3, 5, 15, 16, 17, 32, 33, 63, 64, 70}) add({3, 5, 6, in, 18}, full);
  for (int64_t out : {1, 3, 5, 6, 7, 15, 16, 17, 42, 47, 48, 49, 65, 97}) add({2, 6, 5, 10, out}, full);
  add({2, 1, 9, 12, 20}, plain);
  add({2, 9, 1, 12, 20}, plain);
  add({1, 32, 33, 9, 32}, plain);
  add({3, 8, 8, 64, 64}, one_sign);
  add({2, 48, 49, 5, 3}, plain);      // beyond one K block of tiles of F4
  add({5, 128, 100, 5, 7}, full);     // beyond one block of tiles of F4 and F8
  add({4, 196, 200, 2, 3}, full);     // a pair beyond one block of tiles
  add({2, 7, 9, 24, 33}, poisoned);
  add({3, 13, 12, 18, 5}, poisoned);
  add({1, 1, 1, 7, 5}, poisoned);
}

const Registration cases([](Suite& suite) {
  for (const Form* form : {&kF4, &kF8})
    for (DType dtype : {DType::F32, DType::BF16})
      if (exists(*form, dtype)) add_cases(suite, *form, dtype);
});

// As for the convolution (winograd_test.cpp): n/2 roundings of the full size of a sum over n tiles.
double predicted_error(const Form& form, int64_t tiles) {
  return normal_amplification(form) * kFloat * std::sqrt((transform_roundings(form) + double(tiles) / 2) / 3);
}

void check_error(const Form& form, DType dtype, const char* isa, int64_t side) {
  Random random("normal");
  const ImageShape s{2, side, side, 24, 32};
  const Tensor x = normal_tensor(random, s.x(), dtype), dy = normal_tensor(random, s.dy(), dtype);
  const auto gradient = [&](Backend& backend, const Tensor& of, const Tensor& by, ConvAlgorithm algorithm) {
    Tensor dw = Tensor::zeros(s.dw(), DType::F32, kCpu);
    backend.weight_gradient(dw, of, by, {1, 1, algorithm}, 1);
    return dw;
  };
  const Tensor want = oracle(s.dw(), [&](Backend& backend, Tensor& dw) {
    const Tensor sum = gradient(backend, exact(x), exact(dy), ConvAlgorithm::Direct);
    fill(dw, [&](int64_t i) { return sum.data<float>()[i]; });
  });
  const int64_t rows = (side + form.tile - 1) / form.tile;
  check_close("winograd", gradient(cpu_backend(isa), x, dy, form.algorithm), want,
              predicted_error(form, 2 * rows * rows));
}

const Registration errors([](Suite& suite) {
  for (const CpuIsa& isa : cpu_isas())
    for (const Form* form : {&kF4, &kF8})
      for (DType dtype : {DType::F32, DType::BF16}) {
        if (!exists(*form, dtype) || std::string(isa.name) == "reference") continue;
        for (int64_t side : {8, 64})
          suite.add(format("weight_gradient winograd error of normal data %s %s side=%lld isa=%s", form->name,
                           dtype_name(dtype), (long long)side, isa.name), [=] {
            if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
            check_error(*form, dtype, isa.name, side);
          });
      }
});

// The bits tell which form was chosen; in between, several may be right.
const Registration choices([](Suite& suite) {
  for (const CpuIsa& isa : cpu_isas())
    for (DType dtype : {DType::F32, DType::BF16})
      suite.add(format("weight_gradient winograd is chosen where it pays %s isa=%s", dtype_name(dtype), isa.name), [=] {
        if (!isa.supported) not_run(std::string("this machine or build lacks ") + isa.name);
        Backend& backend = cpu_backend(isa.name);
        const auto check = [&](int64_t side, int64_t in, ConvAlgorithm asked, ConvAlgorithm expected) {
          Random random("choice");
          const ImageShape s{1, side, side, in, 96};
          const Tensor x = random_tensor(random, s.x(), dtype, Layout::Dense),
                       dy = random_tensor(random, s.dy(), dtype, Layout::Dense);
          const auto gradient = [&](ConvAlgorithm algorithm) {
            Tensor dw = Tensor::zeros(s.dw(), DType::F32, kCpu);
            backend.weight_gradient(dw, x, dy, {1, 1, algorithm}, 1);
            return dw;
          };
          const std::string error = different_bits(gradient(asked), gradient(expected));
          if (!error.empty())
            fail_case("side %lld in %lld algorithm %d: %s", (long long)side, (long long)in, int(asked), error.c_str());
        };
        const ConvAlgorithm large = dtype == DType::BF16 ? ConvAlgorithm::WinogradF8 : ConvAlgorithm::WinogradF4;
        for (ConvAlgorithm algorithm : {ConvAlgorithm::Default, ConvAlgorithm::Fast}) {
          if (std::string(isa.name) != "reference") check(32, 96, algorithm, large);
          check(2, 96, algorithm, ConvAlgorithm::Direct);
          check(16, 3, algorithm, ConvAlgorithm::Direct);
        }
        for (ConvAlgorithm absent : {ConvAlgorithm::WinogradF2Bf16, ConvAlgorithm::WinogradF4Bf16})
          check(8, 96, absent, ConvAlgorithm::Direct);
        if (dtype == DType::F32) check(8, 96, ConvAlgorithm::WinogradF8, ConvAlgorithm::Direct);
      });
});

const Registration replicas([](Suite& suite) {
  for (DType dtype : {DType::F32, DType::BF16})
    for (ConvAlgorithm algorithm : {ConvAlgorithm::Default, ConvAlgorithm::WinogradF4, ConvAlgorithm::WinogradF8})
      for (const ImageShape& s : {ImageShape{4, 19, 13, 14, 20}, {16, 19, 13, 14, 20}, {16, 3, 2, 70, 50},
                                  {8, 33, 34, 65, 49}, {8, 128, 100, 2, 3}})
        add_replica_cases(suite, format("weight_gradient winograd algorithm=%d n=%lld h=%lld w=%lld %s", int(algorithm),
                                        (long long)s.items, (long long)s.height, (long long)s.width, dtype_name(dtype)),
                          s.items, s.dw(), [=](Random& random) -> AddGradient {
          const Tensor x = random_tensor(random, s.x(), dtype, Layout::Dense),
                       dy = random_tensor(random, s.dy(), dtype, Layout::Dense);
          return [=](Backend& backend, Tensor& dw, int64_t first, int64_t count) {
            backend.weight_gradient(dw, x.slice_first(first, count), dy.slice_first(first, count), {1, 1, algorithm},
                                    0.7f);
          };
        });
});

}  // namespace
}  // namespace df::test
