#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/ops.h"

namespace df::ops {
namespace {

// A row without keys has no softmax; T5's mask always keeps the end token.
void check_mask(const Tensor& mask, int64_t batch, int64_t keys, Device device) {
  check_like("attention", "mask", mask, {batch, keys}, DType::I32, device);
  if (device.type != DeviceType::Cpu) return;
  for (int64_t b = 0; b < batch; b++) {
    const int32_t* row = mask.data<int32_t>() + b * mask.row_stride();
    int64_t kept = 0;
    for (int64_t j = 0; j < keys; j++) kept += row[j] != 0;
    DF_CHECK(kept > 0, "attention: mask must keep at least one key of every item, got none for item %lld", ll(b));
  }
}

}  // namespace

Tensor attention(const Tensor& q, const AttentionParams& p) {
  check_activations("attention", "q", q, 3);
  const int64_t batch = q.dim(0), queries = q.dim(1), channels = q.dim(2);
  DF_CHECK(p.heads >= 1 && channels % p.heads == 0, "attention: channels must be a multiple of %d heads, got %lld",
           p.heads, ll(channels));
  DF_CHECK(p.segments.size() == 1 || p.segments.size() == 2, "attention: segments must be one or two, got %zu",
           p.segments.size());
  int64_t keys = 0;
  for (const KeyValue& s : p.segments) {
    check_activations("attention", "key", s.key, 3);
    const Shape shape{batch, s.key.dim(1), channels};
    check_like("attention", "key", s.key, shape, q.dtype(), q.device());
    check_like("attention", "value", s.value, shape, q.dtype(), q.device());
    keys += s.key.dim(1);
  }
  if (p.bias.defined()) check_like("attention", "bias", p.bias, {p.heads, queries, keys}, DType::F32, q.device());
  if (p.mask.defined()) check_mask(p.mask, batch, keys, q.device());
  begin_op(4.0 * double(q.numel()) * double(keys));
  Tensor y = Tensor::empty(q.shape(), q.dtype(), q.device());
  backend_for(q.device()).attention(y, q, p);
  return y;
}

Tensor prepend_mean_token(const Tensor& x, const Tensor& position) {
  check_activations("prepend_mean_token", "x", x, 3);
  check_vector("prepend_mean_token", "position", position, x.dim(2), x.device());
  begin_op();
  Tensor y = Tensor::empty({x.dim(0), x.dim(1) + 1, x.dim(2)}, x.dtype(), x.device());
  backend_for(x.device()).prepend_mean_token(y, x, position);
  return y;
}

Tensor relative_position_bias(const Tensor& table, int64_t tokens, int max_distance) {
  check_tensor("relative_position_bias", "table", table, 2, {DType::F32});
  DF_CHECK(tokens >= 1, "relative_position_bias: tokens must be at least 1, got %lld", ll(tokens));
  DF_CHECK(table.dim(0) % 4 == 0, "relative_position_bias: buckets must be a multiple of 4, got %lld",
           ll(table.dim(0)));
  DF_CHECK(max_distance > table.dim(0) / 4, "relative_position_bias: max_distance must be more than %lld, got %d",
           ll(table.dim(0) / 4), max_distance);
  begin_op();
  Tensor y = Tensor::empty({table.dim(1), tokens, tokens}, DType::F32, table.device());
  backend_for(table.device()).relative_position_bias(y, table, max_distance);
  return y;
}

}  // namespace df::ops
