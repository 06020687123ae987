// Philox against its authors' known answers, its normal numbers against Box–Muller in double, and statistics.
#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "core/philox.h"
#include "harness.h"

namespace df::test {
namespace {

// Random123, kat_vectors: philox4x32 with 10 rounds.
void check_known_answers() {
  struct Answer {
    std::array<uint32_t, 4> counter;
    uint64_t key;
    std::array<uint32_t, 4> out;
  };
  const Answer answers[] = {
      {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       0xffffffffffffffffu,
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       0x299f31d0a4093822u,
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Answer& a : answers) {
    const Philox stream(a.key, a.counter[1], uint64_t(a.counter[3]) << 32 | a.counter[2]);
    CHECK(stream.block(a.counter[0]) == a.out);
  }
}

// The documented accuracy.
void check_normal_accuracy() {
  const Philox stream(11, 3, 5);
  constexpr int64_t kBlocks = 100000;
  std::vector<float> got(4 * kBlocks);
  stream.normal(got.data(), 4 * kBlocks);
  double worst = 0;
  for (int64_t b = 0; b < kBlocks; b++) {
    const auto words = stream.block(uint32_t(b));
    for (int pair = 0; pair < 2; pair++) {
      const double u = double((float(words[size_t(2 * pair)]) + 0.5f)) * 0x1p-32;
      const double radius = std::sqrt(-2 * std::log(u)), angle = 2 * M_PI * double(words[size_t(2 * pair + 1)]) * 0x1p-32;
      const double want[2] = {radius * std::cos(angle), radius * std::sin(angle)};
      for (int i = 0; i < 2; i++) {
        const double error = std::abs(got[size_t(4 * b + 2 * pair + i)] - want[i]);
        if (!(error <= 4 * 0x1p-24 * radius)) fail_case("radius %.9g: off by %.3g", radius, error);
        if (radius > 0) worst = std::max(worst, error / radius);
      }
    }
  }
  CHECK(worst > 0);
}

double normal_cdf(double x) { return 0.5 * std::erfc(-x * M_SQRT1_2); }

// Moments within five standard errors; largest distance of the distributions (Kolmogorov 1933) below 2.2 / √n, which
// happens by chance once in 8000.
void check_normal_statistics() {
  constexpr int64_t n = 200000;
  std::vector<float> x(n);
  Philox(2024, 7, 1).normal(x.data(), n);
  double sums[5] = {}, neighbours = 0;
  for (int64_t i = 0; i < n; i++) {
    for (int k = 1; k <= 4; k++) sums[k] += std::pow(double(x[size_t(i)]), k) / n;
    if (i) neighbours += double(x[size_t(i)]) * x[size_t(i - 1)] / n;
  }
  const double se = 5 / std::sqrt(double(n));
  CHECK(std::abs(sums[1]) < se);
  CHECK(std::abs(sums[2] - 1) < se * std::sqrt(2));
  CHECK(std::abs(sums[3]) < se * std::sqrt(15));
  CHECK(std::abs(sums[4] - 3) < se * std::sqrt(96));
  CHECK(std::abs(neighbours) < se);
  std::sort(x.begin(), x.end());
  double distance = 0;
  for (int64_t i = 0; i < n; i++) {
    const double p = normal_cdf(x[size_t(i)]);
    distance = std::max({distance, std::abs(p - double(i) / n), std::abs(p - double(i + 1) / n)});
  }
  CHECK(distance < 2.2 / std::sqrt(double(n)));
  CHECK(x.back() < 6.8f && x.front() > -6.8f);
}

void check_uniform_statistics() {
  constexpr int64_t n = 200000;
  std::vector<float> u(n);
  Philox(5, 1, 2).uniform(u.data(), n);
  double mean = 0, variance = 0, neighbours = 0;
  for (int64_t i = 0; i < n; i++) {
    CHECK(u[size_t(i)] >= 0 && u[size_t(i)] < 1);
    const double d = double(u[size_t(i)]) - 0.5;
    mean += d / n;
    variance += d * d / n;
    if (i) neighbours += d * (double(u[size_t(i - 1)]) - 0.5) / n;
  }
  const double root = std::sqrt(double(n));
  CHECK(std::abs(mean) < 5 * std::sqrt(1.0 / 12) / root);
  CHECK(std::abs(variance - 1.0 / 12) < 5 * std::sqrt(1.0 / 180) / root);
  CHECK(std::abs(neighbours) < 5.0 / 12 / root);
}

// A part of a stream is that part of the whole; every key gives another stream.
void check_streams() {
  const Philox stream(9, 4, uint64_t(1) << 40);
  std::vector<float> whole(50), part(50);
  stream.normal(whole.data(), 50);
  for (int64_t first = 0; first < 50; first++)
    for (int64_t n : {int64_t(0), int64_t(1), int64_t(5), 50 - first}) {
      if (first + n > 50) continue;
      stream.normal(part.data(), n, first);
      for (int64_t i = 0; i < n; i++) CHECK(part[size_t(i)] == whole[size_t(first + i)]);
    }
  std::set<std::array<uint32_t, 4>> blocks;
  for (uint64_t seed : {uint64_t(0), uint64_t(1), uint64_t(1) << 32})
    for (uint32_t purpose : {0u, 1u})
      for (uint64_t index : {uint64_t(0), uint64_t(1), uint64_t(1) << 32})
        for (uint32_t number : {0u, 1u}) blocks.insert(Philox(seed, purpose, index).block(number));
  CHECK(blocks.size() == 3 * 2 * 3 * 2);
}

const Registration streams([](Suite& suite) {
  suite.add("philox known answers", check_known_answers);
  suite.add("philox normal accuracy", check_normal_accuracy);
  suite.add("philox normal statistics", check_normal_statistics);
  suite.add("philox uniform statistics", check_uniform_statistics);
  suite.add("philox streams", check_streams);
});

}  // namespace
}  // namespace df::test
