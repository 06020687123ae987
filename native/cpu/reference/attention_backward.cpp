#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {

// With P = softmax(S): dV = Pᵀ·dY, dP = dY·Vᵀ, dS = P ∘ (dP - δ), δ = rowsum(P ∘ dP), dQ = scale * dS·K,
// dK = scale * dSᵀ·Q, dbias = dS. (Dao et al. 2022, "FlashAttention", appendix B.2, where δ = rowsum(dY ∘ Y); that is
// the same only for a Y that was not rounded, so Y is not read here.)
void ReferenceBackend::attention_backward(Gradient dq, const std::vector<Gradient>& dkey,
                                          const std::vector<Gradient>& dvalue, Tensor dbias, const Tensor& dy,
                                          const Tensor&, const Tensor& q, const AttentionParams& p) {
  const int64_t batch = q.dim(0), queries = q.dim(1), channels = q.dim(2), width = channels / p.heads;
  const auto qs = reference::load(q), dys = reference::load(dy), bias = reference::load(p.bias);
  const int32_t* mask = p.mask.defined() ? p.mask.data<int32_t>() : nullptr;
  int64_t keys = 0;
  for (const KeyValue& s : p.segments) keys += s.key.dim(1);
  const auto ks = reference::load_segments(p, &KeyValue::key), vs = reference::load_segments(p, &KeyValue::value);

  std::vector<double> dqs(qs.size()), dks(ks.size()), dvs(ks.size());
  std::vector<double> dscores(size_t(dbias.defined() ? batch * p.heads * queries * keys : 0));
  parallel_for(batch * p.heads, [&](int64_t item, int) {
    const int64_t b = item / p.heads, h = item % p.heads;
    std::vector<int64_t> kept;
    for (int64_t j = 0; j < keys; j++)
      if (!mask || mask[b * p.mask.row_stride() + j] != 0) kept.push_back(j);
    // of a key: offset of its head in ks, vs, dks, dvs; of a query: in qs, dys, dqs
    const auto key_at = [&](int64_t j) { return size_t((b * keys + j) * channels + h * width); };
    const auto query_at = [&](int64_t i) { return size_t((b * queries + i) * channels + h * width); };
    std::vector<double> weight(kept.size()), dweight(kept.size());
    for (int64_t i = 0; i < queries; i++) {
      const size_t at = query_at(i);
      double largest = -INFINITY, total = 0, delta = 0;
      for (size_t k = 0; k < kept.size(); k++) {
        double score = 0;
        for (size_t d = 0; d < size_t(width); d++) score += qs[at + d] * ks[key_at(kept[k]) + d];
        score *= p.scale;
        if (!bias.empty()) score += bias[size_t((h * queries + i) * keys + kept[k])];
        weight[k] = score;
        largest = std::max(largest, score);
      }
      for (double& w : weight) total += w = std::exp(w - largest);
      for (size_t k = 0; k < kept.size(); k++) {
        weight[k] /= total;
        dweight[k] = 0;
        for (size_t d = 0; d < size_t(width); d++) dweight[k] += dys[at + d] * vs[key_at(kept[k]) + d];
        delta += weight[k] * dweight[k];
      }
      for (size_t k = 0; k < kept.size(); k++) {
        const size_t key = key_at(kept[k]);
        const double ds = weight[k] * (dweight[k] - delta);
        if (dbias.defined()) dscores[size_t((item * queries + i) * keys + kept[k])] = ds;
        for (size_t d = 0; d < size_t(width); d++) {
          dvs[key + d] += weight[k] * dys[at + d];
          dqs[at + d] += p.scale * ds * ks[key + d];
          dks[key + d] += p.scale * ds * qs[at + d];
        }
      }
    }
  });

  for (int64_t row = 0; row < batch * queries; row++)
    reference::store_gradient_row(dq, row, dqs.data() + row * channels);
  int64_t first = 0;
  for (size_t s = 0; s < p.segments.size(); s++) {
    const int64_t length = p.segments[s].key.dim(1);
    for (int64_t row = 0; row < batch * length; row++) {
      const int64_t from = (row / length * keys + first + row % length) * channels;
      reference::store_gradient_row(dkey[s], row, dks.data() + from);
      reference::store_gradient_row(dvalue[s], row, dvs.data() + from);
    }
    first += length;
  }
  reference::add_parameter_gradient(dbias, batch, [&](int64_t b, int64_t i) {
    return dscores[size_t(b * p.heads * queries * keys + i)];
  });
}

}  // namespace df
