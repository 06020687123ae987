#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {

void ReferenceBackend::attention(Tensor& y, const Tensor& q, const AttentionParams& p) {
  const int64_t batch = q.dim(0), queries = q.dim(1), channels = q.dim(2), width = channels / p.heads;
  const auto qs = reference::load(q), bias = reference::load(p.bias);
  const int32_t* mask = p.mask.defined() ? p.mask.data<int32_t>() : nullptr;

  int64_t keys = 0;
  for (const KeyValue& s : p.segments) keys += s.key.dim(1);
  const auto ks = reference::load_segments(p, &KeyValue::key), vs = reference::load_segments(p, &KeyValue::value);

  parallel_for(batch * queries, [&](int64_t row, int) {
    const int64_t b = row / queries, i = row % queries;
    std::vector<double> out(size_t(channels), 0.0), weight(static_cast<size_t>(keys));
    const auto kept = [&](int64_t j) { return !mask || mask[b * p.mask.row_stride() + j] != 0; };
    for (int64_t h = 0; h < p.heads; h++) {
      const double* qh = qs.data() + row * channels + h * width;
      double largest = -INFINITY, total = 0;
      for (int64_t j = 0; j < keys; j++) {
        if (!kept(j)) continue;
        const double* kh = ks.data() + (b * keys + j) * channels + h * width;
        double score = 0;
        for (int64_t d = 0; d < width; d++) score += qh[d] * kh[d];
        score *= p.scale;
        if (!bias.empty()) score += bias[size_t((h * queries + i) * keys + j)];
        weight[size_t(j)] = score;
        largest = std::max(largest, score);
      }
      for (int64_t j = 0; j < keys; j++)
        if (kept(j)) total += weight[size_t(j)] = std::exp(weight[size_t(j)] - largest);
      for (int64_t j = 0; j < keys; j++) {
        if (!kept(j)) continue;
        const double* vh = vs.data() + (b * keys + j) * channels + h * width;
        for (int64_t d = 0; d < width; d++) out[size_t(h * width + d)] += weight[size_t(j)] / total * vh[d];
      }
    }
    reference::store_row(y, row, out.data());
  });
}

}  // namespace df
