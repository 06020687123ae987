// attention, prepend_mean_token and relative_position_bias against the oracle.
#include <algorithm>
#include <cmath>

#include "cpu/reference/values.h"
#include "op_case.h"
#include "ops/ops.h"

namespace df::test {
namespace {

// Where NaN and infinity are put; Ignored: NaN in the keys and values that the mask ignores.
enum class Poison { None, Query, Key, Value, Ignored };

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
  const char* const poisons[] = {"", " nan_query", " nan_key", " nan_value", " nan_ignored"};
  std::string keys;
  for (int64_t k : c.keys) keys += (keys.empty() ? "" : "+") + std::to_string(k);
  return format("attention b=%lld queries=%lld keys=%s heads=%d width=%lld %s%s%s%s%s%s%s", (long long)c.batch,
                (long long)c.queries, keys.c_str(), c.heads, (long long)c.width, dtype_name(c.dtype),
                layout_name(c.layout), c.bias ? " bias" : "", c.late ? " late_mask" : c.mask ? " mask" : "",
                c.range > 1 ? " large" : "", c.scale == 1 ? " unscaled" : "", poisons[int(c.poison)]);
}

// Largest Euclidean norm of a head's part of a row (finite rows only).
double largest_norm(const Tensor& t, int64_t width) {
  const auto v = reference::load(t);
  double largest = 0;
  for (size_t i = 0; i < v.size(); i += size_t(width)) {
    double sum = 0;
    for (size_t d = 0; d < size_t(width); d++) sum += v[i + d] * v[i + d];
    if (std::isfinite(sum)) largest = std::max(largest, sum);
  }
  return std::sqrt(largest);
}

void ignore_nan(const AttentionParams& p, const std::vector<int32_t>& kept, int64_t total) {
  int64_t first = 0;
  for (const KeyValue& s : p.segments) {
    const int64_t keys = s.key.dim(1), channels = s.key.dim(2);
    for (const Tensor& t : {s.key, s.value}) {
      const auto values = reference::load(t);
      fill(t, [&](int64_t i) {
        const int64_t b = i / channels / keys, j = first + i / channels % keys;
        return kept[size_t(b * total + j)] ? values[size_t(i)] : NAN;
      });
    }
    first += keys;
  }
}

void add(Suite& suite, const AttentionCase& c) {
  add_op_case(suite, describe(c), c.dtype, [=](Random& random) {
    const int64_t channels = c.heads * c.width;
    const Tensor q = random_tensor(random, {c.batch, c.queries, channels}, c.dtype, c.layout, -c.range, c.range);
    if (c.poison == Poison::Query) poison(q);
    AttentionParams p;
    p.heads = c.heads;
    p.scale = c.scale > 0 ? c.scale : 1 / std::sqrt(float(c.width));
    const bool vectors = c.layout == Layout::Aligned;
    int64_t total = 0;
    for (int64_t keys : c.keys) {
      const Shape shape{c.batch, keys, channels};
      const Layout layout = p.segments.empty() ? c.layout : other(c.layout, vectors);  // strides differ
      p.segments.push_back({random_tensor(random, shape, c.dtype, layout, -c.range, c.range),
                            random_tensor(random, shape, c.dtype, other(layout, vectors), -1, 1)});
      if (c.poison == Poison::Value) poison(p.segments.back().value);
      total += keys;
    }
    if (c.poison == Poison::Key) poison(p.segments.back().key);  // NaN in a single score of a row
    if (c.bias) p.bias = random_tensor(random, {c.heads, c.queries, total}, DType::F32, Layout::Dense, -2, 2);
    if (c.mask) {  // item b keeps its first keys and one more: at least one, not the same number in every item
      std::vector<int32_t> kept(size_t(c.batch * total));
      for (int64_t b = 0; b < c.batch; b++)
        for (int64_t j = 0; j < total; j++)
          kept[size_t(b * total + (c.late ? total - 1 - j : j))] =
              j <= (b + 1) * total / 3 || (!c.late && j == total - 1 - b);
      p.mask = ints({c.batch, total}, kept);
      if (c.poison == Poison::Ignored) ignore_nan(p, kept, total);
    }

    OpCall call;
    call.shape = q.shape();
    call.dtype = c.dtype;
    call.product = call.vectors = c.dtype != DType::F32 && c.layout == Layout::Aligned;
    call.run = [=](Backend& backend, Tensor& y) { backend.attention(y, q, p); };
    call.op = [=](Device device) {
      AttentionParams moved = p;
      for (KeyValue& s : moved.segments) s = {on(s.key, device), on(s.value, device)};
      moved.bias = on(p.bias, device);
      moved.mask = on(p.mask, device);
      return ops::attention(on(q, device), moved);
    };
    call.expected = [=] {
      AttentionParams values = p, magnitudes = p;
      double key_norm = 0;
      for (size_t i = 0; i < p.segments.size(); i++) {
        values.segments[i] = {exact(p.segments[i].key), exact(p.segments[i].value)};
        magnitudes.segments[i] = {values.segments[i].key, magnitude(p.segments[i].value)};
        key_norm = std::max(key_norm, largest_norm(values.segments[i].key, c.width));
      }
      const Tensor queries = exact(q);
      const auto run = [&](const AttentionParams& params) {
        return oracle(q.shape(), [&](Backend& backend, Tensor& y) { backend.attention(y, queries, params); });
      };
      // A score is wrong by c * eps * scale * |q||k| (+ eps per operation on it), a weight by twice that relatively
      // (its own and the largest score's), the same again for the sum of weights; exp and the division: 8 eps; then a
      // weighted sum. bf16 kernels round the weights once more.
      const double score = p.scale * largest_norm(queries, c.width) * key_norm + (c.bias ? 2 : 0);
      const double weight = 4 * (accumulation_error(c.width) * score + 2 * kFloat * score) + 8 * kFloat;
      const double storage = c.dtype == DType::F32 ? 0 : dtype_epsilon(c.dtype);
      return Expected{run(values), scaled(run(magnitudes), weight + accumulation_error(total) + storage)};
    };
    return call;
  });
}

const Registration attentions([](Suite& suite) {
  for (DType dtype : kComputed) {
    for (int64_t width : {8, 16, 24, 32, 40, 64, 128}) {
      add(suite, {dtype, 2, 9, {7, 9}, 2, width, Layout::Strided});
      add(suite, {dtype, 1, 5, {21}, 3, width});
    }
    for (int64_t width : {1, 3, 7, 20, 48, 80}) add(suite, {dtype, 1, 7, {5, 7}, 2, width});
    for (int64_t queries : {1, 2, 5, 6, 7, 47, 48, 49, 97}) add(suite, {dtype, 1, queries, {19}, 2, 16});
    for (int64_t keys : {1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 200}) {
      add(suite, {dtype, 1, 7, {keys}, 2, 16});
      add(suite, {dtype, 2, 3, {77, keys}, 1, 8, Layout::Strided, true, true});
    }
    add(suite, {dtype, 2, 64, {77, 64}, 4, 64});               // IF: text first, then image
    add(suite, {dtype, 1, 256, {77, 256}, 2, 64});
    add(suite, {dtype, 2, 70, {77, 64}, 2, 64, Layout::Aligned});
    add(suite, {dtype, 1, 150, {77, 300}, 1, 64, Layout::Aligned});  // every stage of a ring is used again
    add(suite, {dtype, 2, 77, {77}, 2, 64, Layout::Aligned, true, true, 1, 1});  // T5
    add(suite, {dtype, 1, 130, {150}, 2, 64, Layout::Aligned, true});
    add(suite, {dtype, 2, 9, {30, 170}, 2, 64, Layout::Aligned, false, true, 1, 0, Poison::Ignored, true});
    add(suite, {dtype, 2, 9, {140}, 2, 64, Layout::Aligned, false, false, 20});
    for (Poison poison : {Poison::Query, Poison::Key, Poison::Value})
      add(suite, {dtype, 2, 70, {20, 39}, 2, 64, Layout::Aligned, false, false, 1, 0, poison});
    add(suite, {dtype, 1, 50, {77, 3000}, 1, 16});             // fewer scores at once
    add(suite, {dtype, 2, 77, {77}, 4, 16, Layout::Dense, true, true, 1, 1});  // T5: bias, mask, no scale
    add(suite, {dtype, 1, 1, {78}, 4, 16});                    // attention pooling: one query
    add(suite, {dtype, 1, 9, {40}, 2, 32, Layout::Dense, false, false, 20});  // scores in the hundreds
    for (int64_t text : {20, 40})
      add(suite, {dtype, 2, 8, {text, 39}, 2, 16, Layout::Dense, false, false, 1, 0, Poison::Key});
    add(suite, {dtype, 1, 200, {30}, 2, 16, Layout::Dense, true});  // beyond one block of queries, with a bias
    add(suite, {dtype, 2, 8, {5, 9}, 2, 16, Layout::Dense, false, false, 1, 0, Poison::Query});
    add(suite, {dtype, 2, 8, {5, 9}, 2, 16, Layout::Dense, false, false, 1, 0, Poison::Value});
    add(suite, {dtype, 2, 8, {40, 39}, 2, 16, Layout::Dense, true, true, 1, 0, Poison::Ignored, true});
    add(suite, {dtype, 3, 8, {20, 19}, 2, 16, Layout::Dense, false, true, 1, 0, Poison::Ignored});
  }
});

const Registration mean_tokens([](Suite& suite) {
  for (DType dtype : kComputed)
    for (int64_t tokens : {1, 2, 17, 77})
      for (int64_t channels : {1, 15, 33, 128})
        for (Layout layout : {Layout::Dense, Layout::Strided})
          add_op_case(suite,
                      format("prepend_mean_token tokens=%lld channels=%lld %s%s", (long long)tokens,
                             (long long)channels, dtype_name(dtype), layout == Layout::Strided ? " strided" : ""),
                      dtype, [=](Random& random) {
                        const Tensor x = random_tensor(random, {2, tokens, channels}, dtype, layout);
                        const Tensor position = random_tensor(random, {channels}, DType::F32, Layout::Dense);
                        OpCall call;
                        call.shape = {2, tokens + 1, channels};
                        call.dtype = dtype;
                        call.run = [=](Backend& b, Tensor& y) { b.prepend_mean_token(y, x, position); };
                        call.op = [=](Device d) { return ops::prepend_mean_token(on(x, d), on(position, d)); };
                        call.expected = [=] {
                          const auto run = [&](const Tensor& values, const Tensor& added) {
                            return oracle({2, tokens + 1, channels},
                                          [&](Backend& b, Tensor& y) { b.prepend_mean_token(y, values, added); });
                          };
                          return Expected{run(exact(x), position),
                                          scaled(run(magnitude(x), magnitude(position)), accumulation_error(tokens))};
                        };
                        return call;
                      });
});

const Registration position_biases([](Suite& suite) {
  for (int64_t tokens : {1, 7, 77, 200})
    for (int heads : {1, 4, 6})
      add_op_case(
          suite, format("relative_position_bias tokens=%lld heads=%d", (long long)tokens, heads), [=](Random& random) {
            const Tensor table = random_tensor(random, {32, heads}, DType::F32, Layout::Dense);
            OpCall call;
            call.shape = {heads, tokens, tokens};
            call.run = [=](Backend& b, Tensor& y) { b.relative_position_bias(y, table, 128); };
            call.op = [=](Device d) { return ops::relative_position_bias(on(table, d), tokens, 128); };
            call.expected = [=] {
              const Tensor y = oracle({heads, tokens, tokens},
                                      [&](Backend& b, Tensor& out) { b.relative_position_bias(out, table, 128); });
              return Expected{y, std::vector<double>(size_t(y.numel()), 0.0)};  // copies: exact
            };
            return call;
          });
});

}  // namespace
}  // namespace df::test
