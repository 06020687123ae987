#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/reference/values.h"
#include "cpu/scratch.h"

namespace df {
namespace {

HeadGradient head_gradient(const Gradient& g, int64_t row, int64_t column) {
  if (!g.wanted()) return {};
  return {row_at(g.into, row, column), g.into.row_stride(), g.add};
}

}  // namespace

// The formulas: reference/attention_backward.cpp. The scores of a block of queries are computed again; a work item is a
// (batch, head), so that nothing is shared between items but dbias.
void CpuBackend::attention_backward(Gradient dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue,
                                    Tensor dbias, const Tensor& dy, const Tensor&, const Tensor& q,
                                    const AttentionParams& p) {
  const int type = int(q.dtype());
  const int64_t batch = q.dim(0), queries = q.dim(1), heads = p.heads, width = q.dim(2) / heads;
  int64_t tokens = 0;
  for (const KeyValue& s : p.segments) tokens += s.key.dim(1);
  const int64_t head_scores = queries * tokens;
  float* dscores = nullptr;  // of all items, [batch][heads][queries][tokens]
  if (dbias.defined())
    dscores = static_cast<float*>(scratch(Scratch::Packed, size_t(batch * heads * head_scores) * sizeof(float)));

  parallel_for(batch * heads, [&](int64_t item, int) {
    const int64_t b = item / heads, h = item % heads, column = h * width;
    AttentionBackwardProblem g = {};
    g.q = row_at(q, b * queries, column);
    g.q_stride = q.row_stride();
    g.dy = row_at(dy, b * queries, column);
    g.dy_stride = dy.row_stride();
    for (size_t i = 0; i < p.segments.size(); i++) {
      const Tensor &k = p.segments[i].key, &v = p.segments[i].value;
      const int64_t row = b * k.dim(1);
      g.run[i] = k.dim(1);
      g.key[i] = row_at(k, row, column);
      g.key_stride[i] = k.row_stride();
      g.value[i] = row_at(v, row, column);
      g.value_stride[i] = v.row_stride();
      g.dkey[i] = head_gradient(dkey[i], row, column);
      g.dvalue[i] = head_gradient(dvalue[i], row, column);
    }
    g.queries = queries;
    g.tokens = tokens;
    g.width = width;
    g.scale = p.scale;
    if (p.bias.defined()) {
      g.bias = p.bias.data<float>() + h * queries * p.bias.row_stride();
      g.bias_stride = p.bias.row_stride();
    }
    if (p.mask.defined()) g.mask = p.mask.data<int32_t>() + b * p.mask.row_stride();
    g.dq = head_gradient(dq, b * queries, column);
    if (dscores) g.dbias = dscores + item * head_scores;
    const AttentionBackwardKernels& kernels = kernels_.attention_backward;
    kernels.run[type](&g, static_cast<char*>(scratch(Scratch::Scores, size_t(kernels.bytes[type](&g)))));
  });
  reference::add_parameter_gradient(dbias, batch, [&](int64_t b, int64_t i) {
    return double(dscores[b * heads * head_scores + i]);
  });
}

}  // namespace df
