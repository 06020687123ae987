#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/scratch.h"

namespace df {
namespace {

// Queries of one work item: enough work per read of the packed keys, enough items for many threads.
constexpr int64_t kItemRows = 192;
// Scores held at once: about half of L2. Between 24 and 96 queries the speed hardly changes.
constexpr int64_t kScoreBytes = 512 << 10, kFewestRows = 24, kMostRows = 48;
// Between the rows of scores: breaks strides of whole pages, which would fall into one cache set.
constexpr int64_t kStridePad = 32;

}  // namespace

void CpuBackend::attention(Tensor& y, const Tensor& q, const AttentionParams& p) {
  const int type = int(q.dtype());
  const int64_t batch = q.dim(0), queries = q.dim(1), width = q.dim(2) / p.heads, heads = p.heads;
  const int64_t panel = kernels_.panel, k_width = padded(width, q.dtype()), value_size = int64_t(dtype_size(q.dtype()));
  int64_t tokens = 0;
  for (const KeyValue& s : p.segments) tokens += s.key.dim(1);
  const int64_t token_columns = panels(tokens) * panel;
  const size_t key_bytes = size_t(token_columns * k_width * value_size);
  const size_t value_bytes = size_t(panels(width) * panel * padded(tokens, q.dtype()) * value_size);
  // both are multiples of a panel row, 64 bytes at least for every vector type that needs the alignment
  char* packed = static_cast<char*>(scratch(Scratch::Packed, size_t(batch * heads) * (key_bytes + value_bytes)));
  const auto mask_row = [&](int64_t b) {
    return p.mask.defined() ? p.mask.data<int32_t>() + b * p.mask.row_stride() : nullptr;
  };

  parallel_for(batch * heads, [&](int64_t item, int) {
    const int64_t b = item / heads, h = item % heads;
    AttentionKeys s = {};
    for (size_t i = 0; i < p.segments.size(); i++) {
      const Tensor &k = p.segments[i].key, &v = p.segments[i].value;
      s.tokens[i] = k.dim(1);
      s.key[i] = row_at(k, b * k.dim(1), h * width);
      s.value[i] = row_at(v, b * k.dim(1), h * width);
      s.key_stride[i] = k.row_stride();
      s.value_stride[i] = v.row_stride();
    }
    s.width = int(width);
    s.mask = mask_row(b);
    char* keys = packed + size_t(item) * (key_bytes + value_bytes);
    kernels_.attention_pack[type](&s, keys, keys + key_bytes);
  });

  // queries of an odd width are widened to whole units, as the keys are
  const char* q_data = static_cast<const char*>(q.raw());
  int64_t q_stride = q.row_stride();
  if (k_width != width) {
    char* wide = static_cast<char*>(scratch(Scratch::Rows, size_t(q.rows() * heads * k_width * value_size)));
    parallel_ranges(q.rows(), 64, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++)
        for (int64_t h = 0; h < heads; h++) {
          char* row = wide + (r * heads + h) * k_width * value_size;
          std::memcpy(row, row_at(q, r, h * width), size_t(width * value_size));
          std::memset(row + width * value_size, 0, size_t((k_width - width) * value_size));
        }
    });
    q_data = wide;
    q_stride = heads * k_width;
  }

  const int64_t stride = token_columns + kStridePad, tile = kernels_.tile_rows;
  const int64_t block = std::clamp(kScoreBytes / (stride * 4), kFewestRows, kMostRows) / tile * tile;
  const int64_t chunks = (queries + kItemRows - 1) / kItemRows;
  parallel_for(batch * heads * chunks, [&](int64_t item, int) {
    const int64_t head = item / chunks, b = head / heads, h = head % heads, first = item % chunks * kItemRows;
    AttentionRows g = {};
    g.q = q_data + ((b * queries + first) * q_stride + h * k_width) * value_size;
    g.q_stride = q_stride;
    g.y = row_at(y, b * queries + first, h * width);
    g.y_stride = y.row_stride();
    g.rows = std::min(kItemRows, queries - first);
    g.tokens = tokens;
    g.width = int(width);
    g.keys = packed + size_t(head) * (key_bytes + value_bytes);
    g.values = static_cast<const char*>(g.keys) + key_bytes;
    if (p.bias.defined()) {
      g.bias = p.bias.data<float>() + (h * queries + first) * p.bias.row_stride();
      g.bias_stride = p.bias.row_stride();
    }
    g.mask = mask_row(b);
    g.scale = p.scale;
    g.block_rows = int(block);
    float* scores = static_cast<float*>(scratch(Scratch::Scores, size_t(block * stride) * sizeof(float)));
    kernels_.attention[type](&g, scores, scratch(Scratch::Weights, size_t(block * stride * value_size)), stride);
  });
}

}  // namespace df
