// attention_backward against the oracle, the oracle against differences.
#include <algorithm>
#include <cmath>

#include "backward_case.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "finite_difference.h"
#include "weight_gradient_case.h"

namespace df::test {
namespace {

// Where NaN and infinity are put; Ignored: NaN in the keys and values that the mask ignores.
enum class Poison { None, Query, Key, Value, Dy, Ignored };

struct AttentionCase {
  DType dtype = DType::F32;
  int64_t batch = 1, queries = 4;
  std::vector<int64_t> keys = {4};  // per segment
  int heads = 2;
  int64_t width = 8;
  Layout layout = Layout::Dense;
  bool bias = false, mask = false;
  double range = 1;  // of q and k: large scores need the maximum subtracted
  float scale = 0;   // 0: 1 / sqrt(width)
  Poison poison = Poison::None;
  bool late = false;  // the mask ignores the first keys instead of the last
};

std::string describe(const AttentionCase& c) {
  const char* const poisons[] = {"", " nan_query", " nan_key", " nan_value", " nan_dy", " nan_ignored"};
  std::string keys;
  for (int64_t k : c.keys) keys += (keys.empty() ? "" : "+") + std::to_string(k);
  return format("attention_backward b=%lld queries=%lld keys=%s heads=%d width=%lld %s%s%s%s%s%s%s",
                (long long)c.batch, (long long)c.queries, keys.c_str(), c.heads, (long long)c.width,
                dtype_name(c.dtype), layout_name(c.layout), c.bias ? " bias" : "",
                c.late ? " late_mask" : c.mask ? " mask" : "", c.range > 1 ? " large" : "", c.scale != 0 ? " unscaled" : "",
                poisons[int(c.poison)]);
}

std::vector<std::string> result_names(const AttentionCase& c) {
  std::vector<std::string> names = {"dq"};
  for (size_t i = 0; i < c.keys.size(); i++) {
    names.push_back("dkey" + std::to_string(i));
    names.push_back("dvalue" + std::to_string(i));
  }
  if (c.bias) names.push_back("dbias");
  return names;
}

struct Inputs {
  Tensor q, dy, y;
  AttentionParams p;
  int64_t tokens() const {
    int64_t n = 0;
    for (const KeyValue& s : p.segments) n += s.key.dim(1);
    return n;
  }
};

Inputs exact_inputs(const Inputs& in) {
  Inputs out = in;
  out.q = exact(in.q), out.dy = exact(in.dy), out.y = exact(in.y);
  for (KeyValue& s : out.p.segments) s = {exact(s.key), exact(s.value)};
  return out;
}

// `g` in the order of result_names, with or without dbias.
void run_backward(Backend& backend, const std::vector<Gradient>& g, const Inputs& in) {
  std::vector<Gradient> dkey, dvalue;
  const size_t segments = in.p.segments.size();
  for (size_t i = 0; i < segments; i++) {
    dkey.push_back(g[1 + 2 * i]);
    dvalue.push_back(g[2 + 2 * i]);
  }
  const Tensor dbias = g.size() > 1 + 2 * segments ? g.back().into : Tensor();
  backend.attention_backward(g[0], dkey, dvalue, dbias, in.dy, in.y, in.q, in.p);
}

// Error bounds in the order of result_names. A score is wrong by c * eps * scale * |q||k| (+ eps per operation), a weight
// relatively by twice that (its own and the largest score's), the same again for the sum of the weights, and 8 eps for
// exp and the division; dP by c * Σ|dy||v|; dS = P * (dP - δ) by what they bring in. bf16 kernels round P and dS once
// more before the last products.
std::vector<std::vector<double>> backward_errors(const Inputs& in, const AttentionCase& c) {
  const AttentionParams& p = in.p;
  const int64_t batch = c.batch, queries = c.queries, channels = c.heads * c.width, tokens = in.tokens();
  const double storage = c.dtype == DType::F32 ? 0 : dtype_epsilon(c.dtype);
  const auto qs = reference::load(in.q), dys = reference::load(in.dy), bias = reference::load(p.bias);
  const auto ks = reference::load_segments(p, &KeyValue::key), vs = reference::load_segments(p, &KeyValue::value);
  std::vector<double> dq(qs.size()), dk(ks.size()), dv(ks.size()), db(size_t(c.heads * queries * tokens));
  for (int64_t b = 0; b < batch; b++)
    for (int64_t h = 0; h < c.heads; h++) {
      const auto key_at = [&](int64_t j) { return size_t((b * tokens + j) * channels + h * c.width); };
      const auto kept = [&](int64_t j) { return !c.mask || p.mask.data<int32_t>()[b * tokens + j] != 0; };
      for (int64_t i = 0; i < queries; i++) {
        const size_t at = size_t((b * queries + i) * channels + h * c.width);
        std::vector<double> weight(size_t(tokens), 0.0), dweight(weight), sizes(weight);  // P, dP, Σ|dy||v|
        double largest = -INFINITY, total = 0, score_size = 0;
        for (int64_t j = 0; j < tokens; j++) {
          if (!kept(j)) continue;
          double score = 0, size = 0;
          for (size_t d = 0; d < size_t(c.width); d++) {
            score += qs[at + d] * ks[key_at(j) + d];
            size += std::abs(qs[at + d] * ks[key_at(j) + d]);
            dweight[size_t(j)] += dys[at + d] * vs[key_at(j) + d];
            sizes[size_t(j)] += std::abs(dys[at + d] * vs[key_at(j) + d]);
          }
          weight[size_t(j)] = p.scale * score + (c.bias ? bias[size_t((h * queries + i) * tokens + j)] : 0);
          largest = std::max(largest, weight[size_t(j)]);
          if (std::isfinite(size)) score_size = std::max(score_size, std::abs(p.scale) * size + (c.bias ? 2 : 0));
        }
        for (int64_t j = 0; j < tokens; j++)
          if (kept(j)) total += weight[size_t(j)] = std::exp(weight[size_t(j)] - largest);
        const double relative =
            4 * (accumulation_error(c.width) + 2 * kFloat) * score_size + 8 * kFloat, product = accumulation_error(c.width);
        double delta = 0, delta_size = 0, delta_error = 0;
        for (size_t j = 0; j < weight.size(); j++) {
          weight[j] /= total;
          delta += weight[j] * dweight[j];
          delta_size += weight[j] * std::abs(dweight[j]);
          delta_error += (weight[j] * relative + kTiny) * std::abs(dweight[j]) + weight[j] * product * sizes[j];
        }
        delta_error += accumulation_error(tokens) * delta_size;
        for (int64_t j = 0; j < tokens; j++) {
          const size_t key = key_at(j), k = size_t(j);
          if (!kept(j) || weight[k] == 0) continue;  // ignored, or a score of -infinity: exactly 0
          const double difference = std::abs(dweight[k]) + std::abs(delta);
          const double ds = std::abs(weight[k] * (dweight[k] - delta));
          const double ds_error = (weight[k] * (relative + 3 * kFloat) + kTiny) * difference +
                                  weight[k] * (product * sizes[k] + delta_error);
          const double weight_error = weight[k] * (relative + storage + accumulation_error(queries)) + kTiny;
          const double rounded = ds_error + storage * (ds + ds_error);
          for (size_t d = 0; d < size_t(c.width); d++) {
            const double scale = std::abs(p.scale);
            dv[key + d] += weight_error * std::abs(dys[at + d]);
            dq[at + d] += scale * (rounded + accumulation_error(tokens) * ds) * std::abs(ks[key + d]);
            dk[key + d] += scale * (rounded + accumulation_error(queries) * ds) * std::abs(qs[at + d]);
          }
          db[size_t((h * queries + i) * tokens + j)] += ds_error + kFloat * double(batch) * ds;
        }
      }
    }
  std::vector<std::vector<double>> errors = {dq};
  int64_t first = 0;
  for (int64_t length : c.keys) {
    for (const auto* all : {&dk, &dv}) {
      errors.emplace_back();
      for (int64_t b = 0; b < batch; b++) {
        const auto begin = all->begin() + (b * tokens + first) * channels;
        errors.back().insert(errors.back().end(), begin, begin + length * channels);
      }
    }
    first += length;
  }
  if (c.bias) errors.push_back(db);
  return errors;
}

Inputs make_inputs(Random& random, const AttentionCase& c) {
  const int64_t channels = c.heads * c.width;
  const bool vectors = c.layout == Layout::Aligned;
  Inputs in;
  in.q = random_tensor(random, {c.batch, c.queries, channels}, c.dtype, c.layout, -c.range, c.range);
  in.dy = random_tensor(random, {c.batch, c.queries, channels}, c.dtype, other(c.layout, vectors));
  if (c.poison == Poison::Query) poison(in.q);
  if (c.poison == Poison::Dy) poison(in.dy);
  AttentionParams& p = in.p;
  p.heads = c.heads;
  p.scale = c.scale != 0 ? c.scale : 1 / std::sqrt(float(c.width));
  for (int64_t keys : c.keys) {
    const Shape shape{c.batch, keys, channels};
    const Layout layout = p.segments.empty() ? c.layout : other(c.layout, vectors);  // strides differ
    p.segments.push_back({random_tensor(random, shape, c.dtype, layout, -c.range, c.range),
                          random_tensor(random, shape, c.dtype, other(layout, vectors))});
    if (c.poison == Poison::Value) poison(p.segments.back().value);
  }
  if (c.poison == Poison::Key) poison(p.segments.back().key);
  const int64_t total = in.tokens();
  if (c.bias) p.bias = random_tensor(random, {c.heads, c.queries, total}, DType::F32, Layout::Dense, -2, 2);
  if (c.mask) {  // at least one key, not the same number in every item
    std::vector<int32_t> kept(size_t(c.batch * total));
    for (int64_t b = 0; b < c.batch; b++)
      for (int64_t j = 0; j < total; j++)
        kept[size_t(b * total + (c.late ? total - 1 - j : j))] =
            j <= (b + 1) * total / 3 || (!c.late && j == total - 1 - b);
    p.mask = ints({c.batch, total}, kept);
    if (c.poison == Poison::Ignored) {
      int64_t first = 0;
      for (const KeyValue& s : p.segments) {
        const int64_t length = s.key.dim(1);
        for (const Tensor& t : {s.key, s.value}) {
          const auto values = reference::load(t);
          fill(t, [&](int64_t i) {
            const int64_t b = i / channels / length, j = first + i / channels % length;
            return kept[size_t(b * total + j)] ? values[size_t(i)] : NAN;
          });
        }
        first += length;
      }
    }
  }
  in.y = guarded(in.q.shape(), c.dtype, Layout::Dense);
  reference_backend().attention(in.y, in.q, p);
  return in;
}

void add(Suite& suite, const AttentionCase& c) {
  add_backward_cases(suite, describe(c), result_names(c), [=](Random& random) {
    const Inputs in = make_inputs(random, c), values = exact_inputs(in);
    BackwardCall call;
    call.dtype = c.dtype;
    call.vectors = c.dtype == DType::BF16 && c.layout == Layout::Aligned;
    call.results = {{"dq", in.q.shape()}};
    for (size_t i = 0; i < c.keys.size(); i++) {
      call.results.push_back({"dkey" + std::to_string(i), in.p.segments[i].key.shape()});
      call.results.push_back({"dvalue" + std::to_string(i), in.p.segments[i].key.shape()});
    }
    if (c.bias) call.results.push_back({"dbias", in.p.bias.shape(), true});
    call.run = [=](Backend& b, const std::vector<Gradient>& g) { run_backward(b, g, in); };
    call.run_exact = [=](Backend& b, const std::vector<Gradient>& g) { run_backward(b, g, values); };
    call.errors = [=] { return backward_errors(values, c); };
    return call;
  });
}

const Registration attentions([](Suite& suite) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    for (int64_t width : {8, 16, 24, 32, 40, 64, 128}) {
      add(suite, {dtype, 2, 9, {7, 9}, 2, width, Layout::Strided});
      add(suite, {dtype, 1, 5, {21}, 3, width});
    }
    for (int64_t width : {1, 3, 7, 20, 48, 80}) add(suite, {dtype, 1, 7, {5, 7}, 2, width});
    for (int64_t queries : {1, 2, 5, 6, 63, 64, 65, 97, 130}) add(suite, {dtype, 1, queries, {19}, 2, 16});
    for (int64_t keys : {1, 2, 3, 15, 16, 17, 64, 65, 129}) {
      add(suite, {dtype, 1, 7, {keys}, 2, 16});
      add(suite, {dtype, 3, 3, {77, keys}, 1, 8, Layout::Strided, true, true});
    }
    add(suite, {dtype, 2, 64, {77, 64}, 2, 64});  // IF: text first, then image
    add(suite, {dtype, 1, 256, {77, 256}, 1, 64});
    add(suite, {dtype, 2, 70, {77, 64}, 2, 64, Layout::Aligned});
    add(suite, {dtype, 1, 150, {77, 90}, 1, 64, Layout::Aligned});  // every stage of a ring is used again
    add(suite, {dtype, 3, 77, {77}, 1, 64, Layout::Aligned, true, true, 1, 1});  // T5
    add(suite, {dtype, 2, 9, {30, 110}, 2, 64, Layout::Aligned, false, true, 1, 0, Poison::Ignored, true});
    add(suite, {dtype, 1, 9, {140}, 2, 64, Layout::Aligned, false, false, 20});
    for (Poison poison : {Poison::Query, Poison::Key, Poison::Value, Poison::Dy})
      add(suite, {dtype, 1, 9, {20, 39}, 2, 64, Layout::Aligned, false, false, 1, 0, poison});
    add(suite, {dtype, 2, 9, {70}, 1, 64, Layout::Aligned, true, true, 1, 0, Poison::Query, true});
    add(suite, {dtype, 2, 77, {77}, 4, 16, Layout::Dense, true, true, 1, 1});  // T5: bias, mask, no scale
    add(suite, {dtype, 2, 70, {33}, 2, 16, Layout::Strided, true});
    add(suite, {dtype, 1, 1, {78}, 4, 16});                                      // attention pooling: one query
    add(suite, {dtype, 1, 9, {40}, 2, 32, Layout::Dense, false, false, 20});    // scores in the hundreds
    add(suite, {dtype, 1, 9, {40}, 2, 16, Layout::Dense, false, false, 1, -0.5});
    add(suite, {dtype, 2, 9, {5, 9}, 2, 16, Layout::Dense, false, false, 1, 0, Poison::Query});
    add(suite, {dtype, 2, 9, {5, 9}, 2, 16, Layout::Dense, false, false, 1, 0, Poison::Key});
    add(suite, {dtype, 2, 9, {5, 9}, 2, 16, Layout::Dense, false, false, 1, 0, Poison::Value});
    add(suite, {dtype, 2, 9, {5, 9}, 2, 16, Layout::Dense, false, false, 1, 0, Poison::Dy});
    add(suite, {dtype, 3, 9, {20, 19}, 2, 16, Layout::Dense, false, true, 1, 0, Poison::Ignored});
    add(suite, {dtype, 2, 9, {20, 19}, 2, 16, Layout::Dense, true, true, 1, 0, Poison::Query});
    add(suite, {dtype, 2, 9, {40, 19}, 2, 16, Layout::Dense, true, true, 1, 0, Poison::Ignored, true});
  }
  for (int64_t items : {4, 8}) {
    const AttentionCase c = {DType::BF16, items, 21, {21}, 2, 16, Layout::Dense, true};
    add_replica_cases(suite, format("attention_backward n=%lld dbias", (long long)items), items, {2, 21, 21},
                     [=](Random& random) {
                       const Inputs in = make_inputs(random, c);
                       return [=](Backend& b, Tensor& g, int64_t first, int64_t count) {
                         Inputs own = in;
                         for (Tensor* t : {&own.q, &own.dy, &own.y, &own.p.segments[0].key, &own.p.segments[0].value})
                           *t = t->slice_first(first, count);
                         run_backward(b, {{}, {}, {}, {g, true}}, own);
                       };
                     });
  }
});

const Registration differences([](Suite& suite) {
  for (bool two : {false, true})
    for (bool bias : {false, true}) {
      AttentionCase c;
      c.batch = 3, c.queries = 5, c.keys = two ? std::vector<int64_t>{3, 4} : std::vector<int64_t>{6};
      c.bias = c.mask = bias;
      const std::string name = format("attention_backward difference segments=%d%s", two ? 2 : 1, bias ? " bias mask" : "");
      add_gradient_case(suite, name, [=](Random& random) {
        const Inputs in = exact_inputs(make_inputs(random, c));
        const auto inputs = [=](const std::vector<Tensor>& t) {
          Inputs own = in;
          own.q = t[0];
          for (size_t i = 0; i < own.p.segments.size(); i++) own.p.segments[i] = {t[1 + 2 * i], t[2 + 2 * i]};
          if (bias) own.p.bias = t.back();
          return own;
        };
        Differentiable f;
        f.inputs = {in.q};
        for (const KeyValue& s : in.p.segments) f.inputs.insert(f.inputs.end(), {s.key, s.value});
        if (bias) f.inputs.push_back(in.p.bias);
        f.forward = [=](const std::vector<Tensor>& t) {
          const Inputs own = inputs(t);
          return oracle(in.q.shape(), [&](Backend& b, Tensor& y) { b.attention(y, own.q, own.p); });
        };
        f.backward = [=](const std::vector<Tensor>& t, const Tensor& dy) {
          Inputs own = inputs(t);
          own.dy = dy;
          std::vector<Tensor> out;
          std::vector<Gradient> g;
          for (const Tensor& input : t) {
            out.push_back(Tensor::zeros(input.shape(), DType::F32, kCpu));
            g.push_back({out.back(), bias && out.size() == t.size()});
          }
          run_backward(cpu_backend("reference"), g, own);
          return out;
        };
        return f;
      });
    }
});

}  // namespace
}  // namespace df::test
