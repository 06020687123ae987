#include <map>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {

void ReferenceBackend::prepend_mean_token_backward(Gradient dx, Tensor dposition, const Tensor& dy) {
  const int64_t items = dy.dim(0), tokens = dy.dim(1) - 1, channels = dy.dim(2);
  const auto dys = reference::load(dy);
  const auto token = [&](int64_t b, int64_t i) { return dys.data() + (b * (tokens + 1) + i) * channels; };
  parallel_for(dx.wanted() ? items * tokens : 0, [&](int64_t row, int) {
    const double *mean = token(row / tokens, 0), *own = token(row / tokens, 1 + row % tokens);
    std::vector<double> out(static_cast<size_t>(channels));
    for (int64_t c = 0; c < channels; c++) out[size_t(c)] = own[c] + mean[c] / double(tokens);
    reference::store_gradient_row(dx, row, out.data());
  });
  reference::add_parameter_gradient(dposition, items, [&](int64_t b, int64_t c) { return token(b, 0)[c]; });
}

void ReferenceBackend::embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) {
  const int32_t* id = ids.data<int32_t>();
  const int64_t columns = ids.shape().rank() ? ids.dim(-1) : 1, items = ids.shape().rank() ? ids.dim(0) : 1,
                channels = dtable.dim(1), per_item = items ? ids.numel() / items : 0;
  std::map<int32_t, std::vector<int64_t>> places;  // of every id, in order
  for (int64_t i = 0; i < ids.numel(); i++) places[id[i / columns * ids.row_stride() + i % columns]].push_back(i);
  std::vector<const std::pair<const int32_t, std::vector<int64_t>>*> rows;
  for (const auto& place : places) rows.push_back(&place);
  const auto dys = reference::load(dy);
  parallel_for(int64_t(rows.size()), [&](int64_t r, int) {
    const auto& [row, tokens] = *rows[size_t(r)];
    // an item without this id adds zero, which changes nothing
    reference::add_parameter_gradient(dtable.slice_first(row, 1), items, [&](int64_t item, int64_t c) {
      double sum = 0;
      for (int64_t i : tokens)
        if (i / per_item == item) sum += dys[size_t(i * channels + c)];
      return sum;
    });
  });
}

void ReferenceBackend::relative_position_bias_backward(Tensor& dtable, const Tensor& dy, int max_distance) {
  const int64_t buckets = dtable.dim(0), heads = dtable.dim(1), tokens = dy.dim(1);
  const auto dys = reference::load(dy);
  parallel_for(heads, [&](int64_t h, int) {
    std::vector<double> sums(static_cast<size_t>(buckets));
    for (int64_t q = 0; q < tokens; q++)
      for (int64_t k = 0; k < tokens; k++)
        sums[size_t(reference::distance_bucket(k - q, buckets, max_distance))] +=
            dys[size_t((h * tokens + q) * tokens + k)];
    for (int64_t b = 0; b < buckets; b++) dtable.data<float>()[b * heads + h] += float(sums[size_t(b)]);
  });
}

}  // namespace df
