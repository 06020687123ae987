#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {

void ReferenceBackend::embedding(Tensor& y, const Tensor& ids, const Tensor& table) {
  const int32_t* id = ids.data<int32_t>();
  const int64_t columns = ids.shape().rank() ? ids.dim(-1) : 1, channels = table.dim(1);
  const auto values = reference::load(table);
  for (int64_t i = 0; i < ids.numel(); i++)
    reference::store_row(y, i, values.data() + id[i / columns * ids.row_stride() + i % columns] * channels);
}

// In float32 as in diffusers (embeddings.py, get_timestep_embedding): rounding an angle near 1000 moves it by up to
// 3e-5, and the sampled pictures depend on that.
void ReferenceBackend::timestep_embedding(Tensor& y, const Tensor& t, bool flip_sin_to_cos, float freq_shift) {
  const auto ts = reference::load(t);
  const int64_t half = y.dim(1) / 2;
  std::vector<double> out(size_t(y.dim(1)), 0.0);
  for (int64_t b = 0; b < y.dim(0); b++) {
    for (int64_t i = 0; i < half; i++) {
      const float exponent = float(-std::log(10000.0)) * float(i) / float(double(half) - freq_shift);
      const float angle = float(ts[size_t(b)]) * std::exp(exponent);
      out[size_t(flip_sin_to_cos ? half + i : i)] = std::sin(angle);
      out[size_t(flip_sin_to_cos ? i : half + i)] = std::cos(angle);
    }
    reference::store_row(y, b, out.data());
  }
}

void ReferenceBackend::prepend_mean_token(Tensor& y, const Tensor& x, const Tensor& position) {
  const auto xs = reference::load(x), positions = reference::load(position);
  const int64_t tokens = x.dim(1), channels = x.dim(2);
  std::vector<double> mean(static_cast<size_t>(channels));
  for (int64_t b = 0; b < x.dim(0); b++) {
    std::fill(mean.begin(), mean.end(), 0.0);
    for (int64_t i = 0; i < tokens; i++) {
      const double* token = xs.data() + (b * tokens + i) * channels;
      for (int64_t c = 0; c < channels; c++) mean[size_t(c)] += token[c];
      reference::store_row(y, b * (tokens + 1) + i + 1, token);
    }
    for (int64_t c = 0; c < channels; c++) mean[size_t(c)] = mean[size_t(c)] / double(tokens) + positions[size_t(c)];
    reference::store_row(y, b * (tokens + 1), mean.data());
  }
}

// Half of the buckets are for keys behind the query; in each half, small distances have a bucket of their own and
// larger ones share buckets that grow geometrically up to max_distance (Raffel et al. 2020, section 2.1). The logarithm
// is taken in float32 because transformers does: what lies on a boundary must fall on its side.
int64_t reference::distance_bucket(int64_t key_minus_query, int64_t buckets, int max_distance) {
  const int64_t half = buckets / 2, exact = half / 2, distance = std::abs(key_minus_query);
  const int64_t side = key_minus_query > 0 ? half : 0;
  if (distance < exact) return side + distance;
  const float octaves =
      std::log(float(distance) / float(exact)) / float(std::log(double(max_distance) / double(exact)));
  return side + std::min(half - 1, exact + int64_t(octaves * float(half - exact)));
}

void ReferenceBackend::relative_position_bias(Tensor& y, const Tensor& table, int max_distance) {
  const auto values = reference::load(table);
  const int64_t heads = y.dim(0), tokens = y.dim(1), buckets = table.dim(0);
  std::vector<double> out(static_cast<size_t>(tokens));
  for (int64_t h = 0; h < heads; h++)
    for (int64_t q = 0; q < tokens; q++) {
      for (int64_t k = 0; k < tokens; k++)
        out[size_t(k)] = values[size_t(reference::distance_bucket(k - q, buckets, max_distance) * heads + h)];
      reference::store_row(y, h * tokens + q, out.data());
    }
}

}  // namespace df
