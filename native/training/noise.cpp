// Compiled without contraction of a * b + c (CMakeLists.txt): the bits must not depend on the machine.
#include "training/noise.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/error.h"
#include "core/execution.h"
#include "core/parallel.h"
#include "core/philox.h"

namespace df {
namespace {

// Part of a run's state: never reuse one. Below 32: lib/stateless-random.ts.
enum Purpose : uint32_t {
  kWhite = 32, kOffset = 33, kPerturbation = 34, kLowRes = 35, kPyramidRatio = 36, kPyramidLevel = 48  // to 63
};
constexpr int kLevels = 16;

/// Position on one axis of a smaller picture: weights 1 - fraction and fraction of two neighbours.
struct Place {
  int64_t low, high;
  float fraction;
};

// torch.nn.Upsample(mode="bilinear"): pixels are areas.
std::vector<Place> places(int64_t out, int64_t in) {
  std::vector<Place> all;
  for (int64_t i = 0; i < out; i++) {
    const float at = std::max(0.f, (float(i) + 0.5f) * (float(in) / float(out)) - 0.5f);
    const int64_t low = std::min(int64_t(at), in - 1);
    all.push_back({low, std::min(low + 1, in - 1), at - float(low)});
  }
  return all;
}

struct Picture {
  int64_t height, width, channels;
  int64_t size() const { return height * width * channels; }
};

// out += weight * small, enlarged.
void add_enlarged(float* out, const Picture& p, const float* small, const Picture& s, float weight) {
  const auto rows = places(p.height, s.height), columns = places(p.width, s.width);
  for (int64_t i = 0; i < p.height; i++)
    for (int64_t j = 0; j < p.width; j++) {
      const Place &v = rows[size_t(i)], &u = columns[size_t(j)];
      for (int64_t c = 0; c < p.channels; c++) {
        const auto at = [&](int64_t h, int64_t w) { return small[(h * s.width + w) * s.channels + c]; };
        const float top = (1 - u.fraction) * at(v.low, u.low) + u.fraction * at(v.low, u.high);
        const float bottom = (1 - u.fraction) * at(v.high, u.low) + u.fraction * at(v.high, u.high);
        out[(i * p.width + j) * p.channels + c] += weight * ((1 - v.fraction) * top + v.fraction * bottom);
      }
    }
}

// As torch.std: n - 1.
double standard_deviation(const float* x, int64_t n) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i];
  for (int64_t i = 0; i < n; i++) squares += (x[i] - sum / double(n)) * (x[i] - sum / double(n));
  return std::sqrt(squares / double(n - 1));
}

// White noise in `out` becomes pyramid noise.
void add_pyramid(float* out, const Picture& p, uint64_t seed, uint64_t sample, float discount) {
  float ratios[kLevels];
  Philox(seed, kPyramidRatio, sample).uniform(ratios, kLevels);
  Picture level = p;
  double weight = 1;
  std::vector<float> small;
  for (int i = 0; i < kLevels; i++, weight *= discount) {
    double factor = 1;  // r^i, without pow: it may round differently elsewhere
    for (int k = 0; k < i; k++) factor *= 2 + 2 * double(ratios[i]);
    level.height = std::max<int64_t>(1, int64_t(double(level.height) / factor));
    level.width = std::max<int64_t>(1, int64_t(double(level.width) / factor));
    small.resize(size_t(level.size()));
    Philox(seed, kPyramidLevel + uint32_t(i), sample).normal(small.data(), level.size());
    add_enlarged(out, p, small.data(), level, float(weight));
    if (level.height == 1 || level.width == 1) break;
  }
  const float deviation = float(standard_deviation(out, p.size()));
  for (int64_t i = 0; i < p.size(); i++) out[i] /= deviation;
}

void add_offset(float* out, const Picture& p, uint64_t seed, uint64_t sample, float offset) {
  std::vector<float> per_channel(size_t(p.channels));
  Philox(seed, kOffset, sample).normal(per_channel.data(), p.channels);
  for (int64_t i = 0; i < p.size(); i++) out[i] += offset * per_channel[size_t(i % p.channels)];
}

// A tensor whose items are filled by fill(values, sample index, item).
Tensor per_sample(const Shape& shape, const std::vector<uint64_t>& samples,
                  const std::function<void(float* values, uint64_t sample, int64_t item)>& fill) {
  DF_CHECK(shape.rank() == 4 && shape[0] == int64_t(samples.size()) && shape.numel() > 0,
           "training_noise: shape must be (%zu samples, H, W, C), got %s", samples.size(), shape.str().c_str());
  begin_op();
  Tensor t = Tensor::empty(shape, DType::F32, kCpu);
  const int64_t n = shape.numel() / shape[0];
  parallel_for(shape[0], [&](int64_t i, int) { fill(t.data<float>() + i * n, samples[size_t(i)], i); });
  return t;
}

}  // namespace

TrainingNoise training_noise(const Shape& shape, const std::vector<uint64_t>& samples, uint64_t seed,
                             const NoiseOptions& o) {
  DF_CHECK(std::isfinite(o.offset) && std::isfinite(o.input_perturbation),
           "training_noise: offset and input_perturbation must be finite, got %g and %g", double(o.offset),
           double(o.input_perturbation));
  DF_CHECK(o.pyramid_discount >= 0 && o.pyramid_discount <= 1,
           "training_noise: pyramid_discount must be from 0 to 1, got %g", double(o.pyramid_discount));
  DF_CHECK(!(o.pyramid_discount > 0) || shape.numel() > shape[0],
           "training_noise: pyramid noise needs more than one value per sample, got %s", shape.str().c_str());
  TrainingNoise r;
  r.target = per_sample(shape, samples, [&](float* values, uint64_t sample, int64_t) {
    const Picture p{shape[1], shape[2], shape[3]};
    Philox(seed, kWhite, sample).normal(values, p.size());
    if (o.pyramid_discount > 0) add_pyramid(values, p, seed, sample, o.pyramid_discount);
    if (o.offset != 0) add_offset(values, p, seed, sample, o.offset);
  });
  r.input = r.target;
  if (o.input_perturbation == 0) return r;
  const int64_t n = shape.numel() / shape[0];
  r.input = per_sample(shape, samples, [&](float* values, uint64_t sample, int64_t item) {
    const float* target = r.target.data<float>() + item * n;
    Philox(seed, kPerturbation, sample).normal(values, n);
    for (int64_t i = 0; i < n; i++) values[i] = target[i] + o.input_perturbation * values[i];
  });
  return r;
}

Tensor low_res_noise(const Shape& shape, const std::vector<uint64_t>& samples, uint64_t seed) {
  const int64_t n = shape.rank() && shape[0] ? shape.numel() / shape[0] : 0;
  return per_sample(shape, samples,
                    [&](float* values, uint64_t sample, int64_t) { Philox(seed, kLowRes, sample).normal(values, n); });
}

}  // namespace df
