#include <algorithm>

#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/ops.h"
#include "ops/recording.h"

namespace df::ops {
namespace {

// dy: a gradient per pair of items (see Tape::partial_gradients); the tree of their sums, then what is there.
void position_bias_backward(Tape& tape, const Tensor& dy, const Tensor& table, int max_distance) {
  begin_op();
  std::vector<Tensor> parts;
  for (int64_t i = 0; i < dy.dim(0); i++) {
    parts.push_back(Tensor::zeros(table.shape(), DType::F32, table.device()));
    const Tensor one = dy.slice_first(i, 1).reshape({dy.dim(1), dy.dim(2), dy.dim(3)});
    backend_for(table.device()).relative_position_bias_backward(parts.back(), one, max_distance);
  }
  add_terms(parts);
  add_terms({tape.parameter_gradient(table), parts[0]});
}

// Items [first, first + count) of the gradients.
Gradient items(const Gradient& g, int64_t first, int64_t count) {
  return g.wanted() ? Gradient{g.into.slice_first(first, count), g.add} : g;
}

void attention_backward(Tape& tape, const Tensor& dy, const Tensor& y, const Tensor& q, const AttentionParams& p) {
  Backend& backend = backend_for(q.device());
  const Gradient dq = tape.gradient(TensorRef(q));
  std::vector<Gradient> dkey, dvalue;
  int64_t keys = 0;
  for (const KeyValue& s : p.segments) {
    dkey.push_back(tape.gradient(TensorRef(s.key)));
    dvalue.push_back(tape.gradient(TensorRef(s.value)));
    keys += s.key.dim(1);
  }
  begin_op(10.0 * double(q.numel()) * double(keys));  // five products, the scores among them
  const int64_t batch = q.dim(0), pairs = (batch + 1) / 2;
  const Tensor dbias = tape.partial_gradients(TensorRef(p.bias), pairs);
  if (!dbias.defined()) return backend.attention_backward(dq, dkey, dvalue, {}, dy, y, q, p);
  for (int64_t pair = 0; pair < pairs; pair++) {
    const int64_t first = 2 * pair, count = std::min<int64_t>(2, batch - first);
    AttentionParams some = p;
    std::vector<Gradient> some_dkey, some_dvalue;
    for (size_t i = 0; i < p.segments.size(); i++) {
      some.segments[i] = {p.segments[i].key.slice_first(first, count), p.segments[i].value.slice_first(first, count)};
      some_dkey.push_back(items(dkey[i], first, count));
      some_dvalue.push_back(items(dvalue[i], first, count));
    }
    if (p.mask.defined()) some.mask = p.mask.slice_first(first, count);
    backend.attention_backward(items(dq, first, count), some_dkey, some_dvalue,
                               dbias.slice_first(pair, 1).reshape(p.bias.shape()), dy.slice_first(first, count),
                               y.slice_first(first, count), q.slice_first(first, count), some);
  }
}

void record_attention(const Tensor& y, const Tensor& q, const AttentionParams& p) {
  Tape* tape = recorder({&q, &p.bias});
  for (const KeyValue& s : p.segments)
    if (!tape) tape = recorder({&s.key, &s.value});
  if (!tape) return;
  const KeyValue &first = p.segments.front(), &last = p.segments.back();
  check_distinct("attention", {&q, &first.key, &first.value});
  if (p.segments.size() > 1) {
    check_distinct("attention", {&q, &last.key, &last.value});
    check_distinct("attention", {&first.key, &last.key});
    check_distinct("attention", {&first.value, &last.value});
  }
  tape->record(y, [y, q, p](Tape& t, const Tensor& dy) { attention_backward(t, dy, y, q, p); });
}

}  // namespace

void check_mask(const Tensor& mask) {
  check_tensor("attention", "mask", mask, 2, {DType::I32});
  if (mask.device().type != DeviceType::Cpu) return;
  for (int64_t b = 0; b < mask.dim(0); b++) {
    const int32_t* row = mask.data<int32_t>() + b * mask.row_stride();
    int64_t kept = 0;
    for (int64_t j = 0; j < mask.dim(1); j++) kept += row[j] != 0;
    DF_CHECK(kept > 0, "attention: mask must keep at least one key of every item, got none for item %lld", ll(b));
  }
}

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
  if (p.mask.defined()) {
    check_like("attention", "mask", p.mask, {batch, keys}, DType::I32, q.device());
    check_mask(p.mask);
  }
  begin_op(4.0 * double(q.numel()) * double(keys));
  Tensor y = Tensor::empty(q.shape(), q.dtype(), q.device());
  backend_for(q.device()).attention(y, q, p);
  record_attention(y, q, p);
  return y;
}

Tensor prepend_mean_token(const Tensor& x, const Tensor& position) {
  check_activations("prepend_mean_token", "x", x, 3);
  check_vector("prepend_mean_token", "position", position, x.dim(2), x.device());
  begin_op();
  Tensor y = Tensor::empty({x.dim(0), x.dim(1) + 1, x.dim(2)}, x.dtype(), x.device());
  backend_for(x.device()).prepend_mean_token(y, x, position);
  if (Tape* tape = recorder({&x, &position}))
    tape->record(y, [r = TensorRef(x), position](Tape& t, const Tensor& dy) {
      begin_op();
      backend_for(dy.device()).prepend_mean_token_backward(t.gradient(r), t.parameter_gradient(position), dy);
    });
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
  if (Tape* tape = recorder({&table}))
    tape->record(y, [table, max_distance](Tape& t, const Tensor& dy) { position_bias_backward(t, dy, table, max_distance); });
  return y;
}

}  // namespace df::ops
