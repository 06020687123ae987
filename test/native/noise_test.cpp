// The noise of training: against its definition in double, statistics, and what it must not depend on.
#include <cmath>

#include "compare.h"
#include "core/execution.h"
#include "core/philox.h"
#include "cpu/reference/values.h"
#include "harness.h"
#include "op_case.h"
#include "training/noise.h"

namespace df::test {
namespace {

const Shape kShape{4, 24, 32, 3};
const std::vector<uint64_t> kSamples{0, 7, 1000003, (uint64_t(1) << 40) + 1};

std::vector<double> values_of(const Tensor& t, int64_t item) { return reference::load(t.slice_first(item, 1)); }

struct Moments {
  double mean = 0, variance = 0;  // n - 1
};
Moments moments(const std::vector<double>& x) {
  Moments m;
  for (double v : x) m.mean += v / double(x.size());
  for (double v : x) m.variance += (v - m.mean) * (v - m.mean) / double(x.size() - 1);
  return m;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const Moments ma = moments(a), mb = moments(b);
  double sum = 0;
  for (size_t i = 0; i < a.size(); i++) sum += (a[i] - ma.mean) * (b[i] - mb.mean);
  return sum / double(a.size() - 1) / std::sqrt(ma.variance * mb.variance);
}

// Mean, variance and neighbours within five standard errors; samples and kinds of noise do not correlate.
void check_white() {
  NoiseOptions options;
  options.input_perturbation = 0.1f;
  const TrainingNoise noise = training_noise(kShape, kSamples, 42, options);
  const Tensor low_res = low_res_noise(kShape, kSamples, 42);
  const double n = 24 * 32 * 3, se = 5 / std::sqrt(n);
  std::vector<std::vector<double>> independent;
  for (int64_t i = 0; i < 4; i++) {
    auto target = values_of(noise.target, i), xi = values_of(noise.input, i);
    for (size_t k = 0; k < xi.size(); k++) xi[k] = (xi[k] - target[k]) / 0.1;
    for (const auto& x : {target, xi, values_of(low_res, i)}) {
      const Moments m = moments(x);
      CHECK(std::abs(m.mean) < se);
      CHECK(std::abs(m.variance - 1) < se * std::sqrt(2));
      for (size_t lag : {size_t(1), size_t(3), size_t(96)})  // channel, column, row
        CHECK(std::abs(correlation({x.begin(), x.end() - std::ptrdiff_t(lag)}, {x.begin() + std::ptrdiff_t(lag), x.end()})) < se);
      independent.push_back(x);
    }
  }
  const Tensor seed = training_noise(kShape, kSamples, 43, {}).target;
  independent.push_back(values_of(seed, 0));
  for (size_t a = 0; a < independent.size(); a++)
    for (size_t b = 0; b < a; b++) CHECK(std::abs(correlation(independent[a], independent[b])) < se);
}

void check_offset() {
  NoiseOptions options;
  options.offset = 0.3f;
  // over many small samples: the mean of a channel has variance offset² + 1 / pixels, other channels are independent
  constexpr int64_t kItems = 2000;
  const Shape shape{kItems, 4, 4, 2};
  std::vector<uint64_t> samples;
  for (uint64_t i = 0; i < kItems; i++) samples.push_back(i);
  const Tensor with = training_noise(shape, samples, 3, options).target, white = training_noise(shape, samples, 3, {}).target;
  const auto a = reference::load(with), b = reference::load(white);
  std::vector<double> means[2];
  for (size_t i = 0; i < size_t(kItems); i++)
    for (size_t c = 0; c < 2; c++) {
      double mean = 0;
      const double added = a[i * 32 + c] - b[i * 32 + c];
      for (size_t p = 0; p < 16; p++) {
        mean += a[i * 32 + 2 * p + c] / 16;
        // the same number for all pixels of a channel
        CHECK(std::abs(a[i * 32 + 2 * p + c] - b[i * 32 + 2 * p + c] - added) <= 1e-6);
      }
      means[c].push_back(mean);
    }
  const double want = 0.3 * 0.3 + 1.0 / 16, se = 5 / std::sqrt(double(kItems));
  for (const auto& m : means) {
    CHECK(std::abs(moments(m).mean) < se * std::sqrt(want));
    CHECK(std::abs(moments(m).variance - want) < se * std::sqrt(2) * want);
  }
  CHECK(std::abs(correlation(means[0], means[1])) < se);
}

// The definition of noise.h, in double, from the same streams.
std::vector<double> pyramid(uint64_t seed, uint64_t sample, int64_t height, int64_t width, int64_t channels, double discount) {
  const auto normal = [&](uint32_t purpose, int64_t n) {
    std::vector<float> x(static_cast<size_t>(n));
    Philox(seed, purpose, sample).normal(x.data(), n);
    return x;
  };
  const int64_t n = height * width * channels;
  const auto white = normal(32, n);
  std::vector<double> total(white.begin(), white.end());
  std::vector<float> u(16);
  Philox(seed, 36, sample).uniform(u.data(), 16);
  int64_t h = height, w = width;
  for (int level = 0; level < 16; level++) {
    const double r = 2 + 2 * double(u[size_t(level)]);
    h = std::max<int64_t>(1, int64_t(double(h) / std::pow(r, level)));
    w = std::max<int64_t>(1, int64_t(double(w) / std::pow(r, level)));
    const auto small = normal(uint32_t(48 + level), h * w * channels);
    for (int64_t i = 0; i < n; i++) {
      const int64_t c = i % channels;
      const double y = std::max(0.0, (double(i / channels / width) + 0.5) * double(h) / double(height) - 0.5),
                   x = std::max(0.0, (double(i / channels % width) + 0.5) * double(w) / double(width) - 0.5);
      double value = 0;  // a tent around every small pixel; at the edges the outer one counts for what lies beyond
      for (int64_t a = int64_t(y); a <= int64_t(y) + 1; a++)
        for (int64_t b = int64_t(x); b <= int64_t(x) + 1; b++)
          value += (1 - std::abs(y - double(a))) * (1 - std::abs(x - double(b))) *
                   double(small[size_t((std::min(a, h - 1) * w + std::min(b, w - 1)) * channels + c)]);
      total[size_t(i)] += std::pow(discount, level) * value;
    }
    if (h == 1 || w == 1) break;
  }
  const double deviation = std::sqrt(moments(total).variance);
  for (double& v : total) v /= deviation;
  return total;
}

void check_pyramid() {
  for (const Shape& shape : {kShape, Shape{4, 64, 64, 3}, Shape{4, 3, 40, 2}, Shape{4, 1, 2, 1}}) {
    NoiseOptions options;
    options.pyramid_discount = 0.9f;
    const Tensor noise = training_noise(shape, kSamples, 5, options).target;
    for (int64_t i = 0; i < 4; i++) {
      const auto got = values_of(noise, i);
      const auto want = pyramid(5, kSamples[size_t(i)], shape[1], shape[2], shape[3], double(0.9f));
      // On both axes a position carries two roundings, moves a level by at most 14 per pixel, and those of all levels
      // together are below 64 (the first level is not enlarged); ten roundings of a sum of at most 10 * 7.
      const double allowed = (2 * 2 * 14 * 64 + 10 * 10 * 7) * kFloat;
      for (size_t k = 0; k < got.size(); k++)
        if (!(std::abs(got[k] - want[k]) <= allowed))
          fail_case("%s sample %lld element %zu: got %.9g, expected %.9g", shape.str().c_str(), (long long)i, k, got[k], want[k]);
      CHECK(std::abs(std::sqrt(moments(got).variance) - 1) <= 1e-6);
    }
  }
  // it is smooth where white noise is not: neighbouring columns of a 64×64 picture
  NoiseOptions options;
  options.pyramid_discount = 0.9f;
  const auto x = values_of(training_noise({1, 64, 64, 3}, {3}, 1, options).target, 0);
  CHECK(correlation({x.begin(), x.end() - 3}, {x.begin() + 3, x.end()}) > 0.1);
}

// Every sample by itself, in another order and with 1, 2 and 3 threads: the same bits.
void check_independence() {
  NoiseOptions options;
  options.offset = 0.1f;
  options.pyramid_discount = 0.8f;
  options.input_perturbation = 0.2f;
  for (int threads = 1; threads <= 3; threads++) {
    ThreadPool pool(threads);
    Execution execution;
    execution.pool = &pool;
    const TrainingNoise alone = training_noise(kShape, kSamples, 42, options);
    const Tensor alone_low = low_res_noise(kShape, kSamples, 42);
    ExecutionScope scope(execution);
    const TrainingNoise all = training_noise(kShape, kSamples, 42, options);
    CHECK(different_bits(all.target, alone.target).empty() && different_bits(all.input, alone.input).empty());
    for (int64_t i = 0; i < 4; i++) {
      const Shape one{1, 24, 32, 3}, two{2, 24, 32, 3};
      const uint64_t sample = kSamples[size_t(i)];
      const TrainingNoise single = training_noise(one, {sample}, 42, options);
      const TrainingNoise pair = training_noise(two, {999, sample}, 42, options);
      for (auto member : {&TrainingNoise::target, &TrainingNoise::input}) {
        CHECK(different_bits((all.*member).slice_first(i, 1), single.*member).empty());
        CHECK(different_bits((pair.*member).slice_first(1, 1), single.*member).empty());
      }
      CHECK(different_bits(alone_low.slice_first(i, 1), low_res_noise(one, {sample}, 42)).empty());
    }
  }
}

void check_refusals() {
  const auto refuse = [](const std::string& part, const std::function<void()>& body) {
    expect_error(ErrorCode::InvalidArgument, part, body);
  };
  refuse("training_noise: shape must be (2 samples, H, W, C), got (4, 24, 32, 3)", [] { training_noise(kShape, {1, 2}, 0, {}); });
  refuse("training_noise: shape must be (1 samples, H, W, C), got (1, 5)", [] { low_res_noise({1, 5}, {1}, 0); });
  const auto options = [&](const std::string& part, const Shape& shape, const NoiseOptions& o) {
    refuse(part, [&] { training_noise(shape, {1}, 0, o); });
  };
  options("training_noise: offset and input_perturbation must be finite, got nan and 0", {1, 8, 8, 3}, {NAN, 0, 0});
  options("training_noise: offset and input_perturbation must be finite, got 0 and inf", {1, 8, 8, 3}, {0, 0, INFINITY});
  options("training_noise: pyramid_discount must be from 0 to 1, got 1.5", {1, 8, 8, 3}, {0, 1.5f, 0});
  options("training_noise: pyramid_discount must be from 0 to 1, got nan", {1, 8, 8, 3}, {0, NAN, 0});
  options("pyramid noise needs more than one value per sample, got (1, 1, 1, 1)", {1, 1, 1, 1}, {0, 0.9f, 0});
}

const Registration noises([](Suite& suite) {
  suite.add("training noise white", check_white);
  suite.add("training noise offset", check_offset);
  suite.add("training noise pyramid", check_pyramid);
  suite.add("training noise independence", check_independence);
  suite.add("training noise refusals", check_refusals);
});

}  // namespace
}  // namespace df::test
