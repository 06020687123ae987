// Backward of prepend_mean_token, embedding and relative_position_bias.
#include <cmath>

#include "core/execution.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "finite_difference.h"
#include "gradient_case.h"

namespace df::test {
namespace {

void add_mean_token(Suite& suite, int64_t items, int64_t tokens, int64_t channels, DType dtype, Layout layout) {
  const std::string name =
      format("prepend_mean_token_backward n=%lld t=%lld c=%lld %s%s", (long long)items, (long long)tokens,
             (long long)channels, dtype_name(dtype), layout == Layout::Strided ? " strided" : "");
  const Shape dy_shape{items, tokens + 1, channels};
  add_gradient_op_cases(suite, name + " x", [=](Random& random) {
    GradientOp op{{items, tokens, channels}, dtype};
    op.inputs = {random_tensor(random, dy_shape, dtype, layout)};
    op.run = [](Backend& b, const Gradient& dx, const std::vector<Tensor>& in) {
      b.prepend_mean_token_backward(dx, Tensor(), in[0]);
    };
    op.error = [=](const std::vector<Tensor>&, const Tensor& g) {  // |dy| < 1: a quotient, a sum, the oracle's rounding
      return std::vector<double>(size_t(g.numel()), 6 * kFloat);
    };
    return op;
  });
  add_op_case(suite, name + " position", [=](Random& random) {
    const Tensor dy = random_tensor(random, dy_shape, dtype, layout);
    OpCall call;
    call.shape = {channels};
    call.strided = false;
    call.initial = random_tensor(random, {channels}, DType::F32, Layout::Dense);
    call.run = [=](Backend& b, Tensor& y) { b.prepend_mean_token_backward(Gradient(), y, dy); };
    const Tensor initial = call.initial;
    call.expected = [=] {
      auto sum = reference::load(initial), size = sum;
      const auto d = reference::load(dy);
      for (size_t c = 0; c < sum.size(); c++) size[c] = std::abs(sum[c]);
      for (int64_t b = 0; b < items; b++)
        for (int64_t c = 0; c < channels; c++) {
          const double v = d[size_t(b * (tokens + 1) * channels + c)];
          sum[size_t(c)] += v;
          size[size_t(c)] += std::abs(v);
        }
      for (double& s : size) s *= kFloat * double(items + 2);
      return Expected{tensor_of({channels}, sum), size};
    };
    return call;
  });
}

void add_embedding(Suite& suite, int64_t items, int64_t channels, DType dtype, Layout layout) {
  const std::string name = format("embedding_backward n=%lld c=%lld %s%s", (long long)items, (long long)channels,
                                  dtype_name(dtype), layout == Layout::Strided ? " strided" : "");
  add_op_case(suite, name, [=](Random& random) {
    constexpr int64_t kTokens = 6, kVocabulary = 11;
    std::vector<int32_t> ids;  // many of them 0, as padding is
    for (int64_t i = 0; i < items * kTokens; i++)
      ids.push_back(i % 3 ? int32_t(random.uniform(0, double(kVocabulary))) : 0);
    const Tensor id = ints({items, kTokens}, ids),
                 dy = random_tensor(random, {items, kTokens, channels}, dtype, layout);
    OpCall call;
    call.shape = {kVocabulary, channels};
    call.strided = false;
    call.initial = random_tensor(random, call.shape, DType::F32, Layout::Dense);
    call.run = [=](Backend& b, Tensor& y) { b.embedding_backward(y, dy, id); };
    const Tensor initial = call.initial;
    call.expected = [=] {
      auto sum = reference::load(initial), size = sum;
      const auto d = reference::load(dy);
      for (double& s : size) s = std::abs(s);
      for (size_t i = 0; i < ids.size(); i++)
        for (size_t c = 0; c < size_t(channels); c++) {
          sum[size_t(ids[i] * channels) + c] += d[i * size_t(channels) + c];
          size[size_t(ids[i] * channels) + c] += std::abs(d[i * size_t(channels) + c]);
        }
      for (double& s : size) s *= accumulation_error(items * kTokens);
      return Expected{tensor_of({kVocabulary, channels}, sum), size};
    };
    return call;
  });
}

void add_position_bias(Suite& suite, int64_t buckets, int64_t heads, int64_t tokens, int max_distance) {
  add_op_case(suite,
              format("relative_position_bias_backward buckets=%lld heads=%lld t=%lld max=%d", (long long)buckets,
                     (long long)heads, (long long)tokens, max_distance),
              [=](Random& random) {
                const Tensor dy = random_tensor(random, {heads, tokens, tokens}, DType::F32, Layout::Strided);
                OpCall call;
                call.shape = {buckets, heads};
                call.strided = false;
                call.initial = random_tensor(random, call.shape, DType::F32, Layout::Dense);
                call.run = [=](Backend& b, Tensor& y) { b.relative_position_bias_backward(y, dy, max_distance); };
                const Tensor initial = call.initial;
                call.expected = [=] {
                  Tensor y = exact(initial);
                  reference_backend().relative_position_bias_backward(y, dy, max_distance);
                  Tensor size = magnitude(initial);
                  reference_backend().relative_position_bias_backward(size, magnitude(dy), max_distance);
                  return Expected{y, scaled(size, accumulation_error(tokens * tokens))};
                };
                return call;
              });
}

// `gradient(first, items, into)` adds the parameter gradient of items [first, first + items). Of float32 values: sums
// of a few bfloat16 ones are exact in any order.
void check_halves(const Shape& shape,
                  const std::function<void(Backend&, int64_t first, int64_t items, Tensor& into)>& gradient) {
  for (const KernelBackend& kernels : kernel_backends()) {
    if (!kernels.supported) continue;
    Backend& b = kernels.get();
    Tensor whole = Tensor::zeros(shape, DType::F32, kCpu), left = Tensor::zeros(shape, DType::F32, kCpu),
           right = Tensor::zeros(shape, DType::F32, kCpu), sum = Tensor::empty(shape, DType::F32, kCpu);
    gradient(b, 0, 8, whole);
    gradient(b, 0, 4, left);
    gradient(b, 4, 4, right);
    b.axpby(sum, 1, left, 1, right);
    const std::string error = different_bits(sum, whole);
    if (!error.empty()) fail_case("%s: %s", kernels.name.c_str(), error.c_str());
  }
}

void add_halves(Suite& suite) {
  suite.add("prepend_mean_token_backward halves of a batch", [] {
    Random random("mean token halves");
    const Tensor dy = random_tensor(random, {8, 4, 19}, DType::F32, Layout::Strided);
    check_halves({19}, [&](Backend& b, int64_t first, int64_t items, Tensor& into) {
      b.prepend_mean_token_backward(Gradient(), into, dy.slice_first(first, items));
    });
  });
  suite.add("embedding_backward halves of a batch", [] {
    Random random("embedding halves");
    const Tensor dy = random_tensor(random, {8, 5, 19}, DType::F32, Layout::Strided);
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; i++) ids.push_back(int32_t(random.uniform(0, 4)));
    const Tensor id = ints({8, 5}, ids);
    check_halves({4, 19}, [&](Backend& b, int64_t first, int64_t items, Tensor& into) {
      b.embedding_backward(into, dy.slice_first(first, items), id.slice_first(first, items));
    });
  });
}

// The gradients of `f.inputs` come from one call that adds to zeros.
void add_difference(Suite& suite, const std::string& name, const std::vector<Shape>& shapes, const Shape& result,
                    std::function<void(const std::vector<Tensor>& in, Tensor& y)> forward,
                    std::function<void(std::vector<Tensor>& gradients, const Tensor& dy)> backward) {
  add_gradient_case(suite, name + " finite difference", [=](Random& random) {
    Differentiable f;
    for (const Shape& shape : shapes) f.inputs.push_back(random_tensor(random, shape, DType::F32, Layout::Dense));
    f.forward = [=](const std::vector<Tensor>& in) {
      Tensor y = Tensor::empty(result, DType::F32, kCpu);
      forward(in, y);
      return y;
    };
    f.backward = [=](const std::vector<Tensor>& in, const Tensor& dy) {
      std::vector<Tensor> gradients;
      for (const Tensor& t : in) gradients.push_back(Tensor::zeros(t.shape(), DType::F32, kCpu));
      backward(gradients, dy);
      return gradients;
    };
    return f;
  });
}

void add_differences(Suite& suite) {
  Backend& b = reference_backend();
  add_difference(
      suite, "prepend_mean_token_backward", {{3, 5, 7}, {7}}, {3, 6, 7},
      [&b](const std::vector<Tensor>& in, Tensor& y) { b.prepend_mean_token(y, in[0], in[1]); },
      [&b](std::vector<Tensor>& g, const Tensor& dy) { b.prepend_mean_token_backward({g[0]}, g[1], dy); });
  const Tensor ids = ints({3, 4}, {0, 1, 5, 0, 0, 0, 2, 2, 5, 4, 1, 0});
  add_difference(
      suite, "embedding_backward", {{6, 7}}, {3, 4, 7},
      [&b, ids](const std::vector<Tensor>& in, Tensor& y) { b.embedding(y, ids, in[0]); },
      [&b, ids](std::vector<Tensor>& g, const Tensor& dy) { b.embedding_backward(g[0], dy, ids); });
  add_difference(
      suite, "relative_position_bias_backward", {{32, 3}}, {3, 40, 40},
      [&b](const std::vector<Tensor>& in, Tensor& y) { b.relative_position_bias(y, in[0], 20); },
      [&b](std::vector<Tensor>& g, const Tensor& dy) { b.relative_position_bias_backward(g[0], dy, 20); });
}

const Registration embeddings([](Suite& suite) {
  for (DType dtype : {DType::F32, DType::BF16})
    for (Layout layout : {Layout::Dense, Layout::Strided}) {
      for (int64_t channels : {1, 15, 64, 70}) {
        add_mean_token(suite, 3, 5, channels, dtype, layout);
        for (int64_t items : {1, 2, 5}) add_embedding(suite, items, channels, dtype, layout);
      }
      add_mean_token(suite, 1, 1, 20, dtype, layout);
      add_mean_token(suite, 7, 77, 33, dtype, layout);
    }
  for (int64_t tokens : {1, 9, 77, 150}) add_position_bias(suite, 32, 4, tokens, 128);
  add_position_bias(suite, 8, 3, 30, 16);
  add_halves(suite);
  add_differences(suite);
});

}  // namespace
}  // namespace df::test
