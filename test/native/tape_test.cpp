// The tape by itself: small graphs of ops whose gradients are whole numbers and therefore exact.
#include <atomic>
#include <cstring>

#include "autograd/tape.h"
#include "core/execution.h"
#include "device_case.h"
#include "harness.h"
#include "ops/ops.h"
#include "tensors.h"

namespace df::test {
namespace {

Tensor iota(const Shape& shape, double first = 1) {
  std::vector<double> values;
  for (int64_t i = 0; i < shape.numel(); i++) values.push_back(first + double(i));
  return tensor_of(shape, values);
}

Tensor constant(const Shape& shape, double value) {
  return tensor_of(shape, std::vector<double>(size_t(shape.numel()), value));
}

void check_values(const Tensor& got, const std::vector<double>& want) {
  const Tensor dense = exact(got);
  CHECK(dense.numel() == int64_t(want.size()));
  for (size_t i = 0; i < want.size(); i++)
    if (!(double(dense.data<float>()[i]) == want[i]))
      fail_case("element %zu: expected %g, got %g", i, want[i], double(dense.data<float>()[i]));
}

// a·x, through two inputs of one op
Tensor times(double a, const Tensor& x) { return ops::axpby(float(a), x, 0, constant(x.shape(), 0)); }

// Records f(x), runs it backwards from ones and gives the gradient of x.
Tensor gradient(const Tensor& x, const std::function<Tensor(const Tensor&)>& f) {
  Tape tape;
  tape.require(x);
  Tensor y;
  {
    RecordScope scope(&tape);
    y = f(x);
  }
  tape.backward(y, constant(y.shape(), 1));
  CHECK(tape.size() == 0);
  return tape.gradient_of(x);
}

const Registration routing([](Suite& suite) {
  suite.add("tape fan-out", [] {
    const Tensor x = iota({2, 2});
    check_values(gradient(x, [](const Tensor& t) { return ops::axpby(2, t, 3, t); }), {5, 5, 5, 5});
    check_values(gradient(x,
                          [](const Tensor& t) {
                            const Tensor a = times(2, t), b = ops::axpby(3, t, 5, a);  // 13 t
                            return ops::axpby(1, ops::axpby(7, a, 1, b), -1, t);       // 14 t + 13 t - t
                          }),
                 {26, 26, 26, 26});
  });

  suite.add("tape slices, overlaps and gaps", [] {
    const Tensor x = iota({2, 4});
    const auto columns = [](const Tensor& t, int64_t a) { return t.slice_last(a, 2); };
    const auto twice = [](std::vector<double> row) {
      row.insert(row.end(), row.begin(), row.end());
      return row;
    };
    check_values(gradient(x, [&](const Tensor& t) { return ops::axpby(2, columns(t, 0), 3, columns(t, 2)); }),
                 twice({2, 2, 3, 3}));
    check_values(gradient(x, [&](const Tensor& t) { return times(2, columns(t, 1)); }), twice({0, 2, 2, 0}));
    check_values(gradient(x, [&](const Tensor& t) { return ops::axpby(2, columns(t, 0), 3, columns(t, 1)); }),
                 twice({2, 5, 3, 0}));
    check_values(gradient(x, [&](const Tensor& t) { return ops::axpby(2, columns(t, 2), 3, columns(t, 2)); }),
                 twice({0, 0, 5, 5}));
    // a slice after the whole, and before it
    check_values(gradient(x, [&](const Tensor& t) { return ops::axpby(1, columns(times(2, t), 1), 3, columns(t, 0)); }),
                 twice({3, 5, 2, 0}));
    Tape unread;
    unread.require(x);
    check_values(unread.gradient_of(x), twice({0, 0, 0, 0}));
  });

  suite.add("tape items and reshapes", [] {
    const Tensor x = iota({2, 6});
    check_values(gradient(x, [](const Tensor& t) { return times(2, t.slice_first(1, 1)); }),
                 {0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2});
    // tokens (2, 3, 2): the first token of every item, as the attention pooling reads it
    check_values(gradient(x,
                          [](const Tensor& t) {
                            const Tensor tokens = t.reshape({2, 3, 2});
                            const Tensor first = tokens.reshape({2, 6}).slice_last(0, 2);
                            return ops::axpby(5, first, 1, times(2, tokens).reshape({2, 6}).slice_last(2, 2));
                          }),
                 {5, 5, 2, 2, 0, 0, 5, 5, 2, 2, 0, 0});
  });

  add_device_case(suite, "tape slices and gaps on a device", [] {
    const Tensor x = on(iota({3, 4}), kCuda);
    for (int64_t begin = 0; begin < 3; begin++) {
      Tape tape;
      tape.require(x);
      Tensor y;
      {
        RecordScope scope(&tape);
        const Tensor columns = x.slice_last(begin, 2);
        y = ops::axpby(2, columns, 3, columns);
      }
      tape.backward(y, on(constant({3, 2}, 1), kCuda));
      std::vector<double> want(12, 0);
      for (size_t row = 0; row < 3; row++)
        for (size_t i = 0; i < 2; i++) want[4 * row + size_t(begin) + i] = 5;
      check_values(on(tape.gradient_of(x), kCpu), want);
    }
    Tape unread;
    unread.require(x);
    check_values(on(unread.gradient_of(x), kCpu), std::vector<double>(12, 0));
  });

  suite.add("tape concatenation by views", [] {
    const Tensor a = iota({2, 2}), b = iota({2, 1}, 5);
    Tape tape;
    tape.require(a);
    tape.require(b);
    Tensor y;
    {
      RecordScope scope(&tape);
      const Tensor wide = Tensor::empty({2, 3}, DType::F32, kCpu);
      ops::copy(a, DType::F32, wide.slice_last(0, 2));
      const Tensor right = ops::copy(b, DType::F32, wide.slice_last(2, 1));
      y = ops::axpby(2, wide.slice_last(1, 2), 3, wide.slice_last(0, 2));  // columns: 3, 2 + 3, 2
      y = ops::axpby(1, y.slice_last(0, 1), 7, right);                     // column 0 of y: 2 wide[1] + 3 wide[0]
    }
    tape.backward(y, constant(y.shape(), 1));
    check_values(tape.gradient_of(a), {3, 2, 3, 2});
    check_values(tape.gradient_of(b), {7, 7});
  });

  suite.add("tape parts that nothing reads", [] {
    const Tensor a = iota({2, 2}), b = iota({2, 2}, 5);
    Tape tape;
    tape.require(a);
    tape.require(b);
    int calls = 0;
    Tensor y;
    {
      RecordScope scope(&tape);
      const Tensor wide = Tensor::empty({2, 4}, DType::F32, kCpu);
      ops::copy(a, DType::F32, wide.slice_last(0, 2));
      ops::copy(b, DType::F32, wide.slice_last(2, 2));
      tape.record(wide.slice_last(2, 2), [&](Tape&, const Tensor&) { calls++; });
      y = times(2, wide.slice_last(0, 2));
    }
    tape.backward(y, constant(y.shape(), 1));
    check_values(tape.gradient_of(a), {2, 2, 2, 2});
    check_values(tape.gradient_of(b), {0, 0, 0, 0});
    CHECK(calls == 0);
  });

  suite.add("tape keeps the gradient of a required result that was handed over", [] {
    const Tensor x = iota({2, 2});
    Tape tape;
    tape.require(x);
    Tensor y, z;
    {
      RecordScope scope(&tape);
      const Tensor early = times(3, x);
      y = ops::axpby(1, x, 1, early);
      tape.require(y);
      z = ops::axpby(1, y, 1, early);
    }
    tape.backward(z, constant(z.shape(), 1));
    check_values(tape.gradient_of(y), {1, 1, 1, 1});
    check_values(tape.gradient_of(x), {7, 7, 7, 7});
  });

  suite.add("tape partial gradients of pairs of items", [] {
    const Tensor table = iota({1, 2});
    Tape tape;
    tape.require(table);
    Tensor y;
    std::vector<double> seen;
    {
      RecordScope scope(&tape);
      const Tensor bias = ops::copy(table, DType::F32);
      tape.record(bias, [&](Tape&, const Tensor& dy) {
        CHECK(dy.shape() == Shape({2, 1, 2}));
        for (int i = 0; i < 4; i++) seen.push_back(dy.data<float>()[i]);
      });
      for (int block = 1; block <= 2; block++) {
        y = iota({1});
        tape.record(y, [=](Tape& t, const Tensor&) {
          const Tensor parts = t.partial_gradients(TensorRef(bias), 2);
          for (int i = 0; i < 4; i++) parts.data<float>()[i] += float(10 * block + i);
          if (block == 2) t.pass(TensorRef(table), 1, constant({1, 2}, 1));
        });
      }
      const Tensor unused = y;
    }
    tape.backward(y, constant({1}, 1));
    CHECK(seen == std::vector<double>({20, 21, 22, 23}));
  });
});

// y = (x·w + bias + residual) * scale, with whole numbers.
struct Layer {
  Weight weight;
  Tensor bias, dw, db;
  explicit Layer(Tape& tape, double first) {
    weight.out = weight.in = 2;
    weight.master = iota({2, 2}, first);
    bias = iota({2});
    dw = constant({2, 2}, 0);
    db = constant({2}, 0);
    tape.watch(weight.master, dw);
    tape.watch(bias, db);
  }
  Tensor operator()(const Tensor& x, const Tensor& residual = {}, float scale = 1, Tensor into = {}) const {
    return ops::linear(x, weight, {.bias = bias, .residual = residual, .scale = scale}, into);
  }
};

const Registration layers([](Suite& suite) {
  suite.add("tape linear with residual and scale, gradients added to", [] {
    for (const float scale : {1.0f, 0.5f}) {
      Tape tape;
      const Layer layer(tape, 1);  // w = [1 2; 3 4]
      const Tensor x = iota({2, 2}), r = iota({2, 2}, 7);
      tape.require(x);
      tape.require(r);
      Tensor y;
      {
        RecordScope scope(&tape);
        y = ops::axpby(1, layer(x, r, scale), 8, x);
      }
      for (const double times : {1.0, 2.0}) {  // the second time into what is there
        if (times == 2) {
          RecordScope scope(&tape);
          y = ops::axpby(1, layer(x, r, scale), 8, x);
        }
        tape.backward(y, constant({2, 2}, 1));
        const double s = scale * times;
        check_values(layer.dw, {4 * s, 6 * s, 4 * s, 6 * s});  // columns of x summed
        check_values(layer.db, {2 * s, 2 * s});
        check_values(tape.gradient_of(x), {4 * s + 8 * times, 6 * s + 8 * times, 4 * s + 8 * times, 6 * s + 8 * times});
        check_values(tape.gradient_of(r), {s, s, s, s});
      }
    }
  });

  suite.add("tape frozen weights pass gradients on and keep no inputs", [] {
    const Tensor plain = iota({2, 2}), x = iota({2, 2});
    for (const bool int8 : {false, true}) {
      const Weight frozen = int8 ? ops::pack_int8(constant({2, 2}, 127), DType::F32) : ops::pack(plain, DType::F32);
      const Tensor dx = gradient(x, [&](const Tensor& t) {
        Tensor copy = times(1, t);
        Tensor y = ops::linear(copy, frozen);
        const std::weak_ptr<Storage> kept = copy.storage();
        copy = Tensor();
        CHECK(kept.expired());
        return y;
      });
      if (int8) check_values(dx, {254, 254, 254, 254});
      else check_values(dx, {4, 6, 4, 6});
    }
  });

  suite.add("tape records nothing that nothing depends on", [] {
    Tape tape;
    const Layer layer(tape, 1);
    const Weight frozen = ops::pack(iota({2, 2}), DType::F32);
    RecordScope scope(&tape);
    const Tensor y = ops::linear(iota({2, 2}), frozen);
    ops::activation(y, Activation::Gelu);
    CHECK(tape.size() == 0 && !tape.needs(y));
    CHECK(tape.needs(layer(y)) && tape.size() == 1);
    {
      RecordScope pause(nullptr);
      layer(y);
    }
    CHECK(tape.size() == 1);
    tape.clear();
    CHECK(tape.size() == 0);
  });

  suite.add("tape refuses what has no gradient", [] {
    Tape tape;
    const Tensor image = constant({1, 4, 4, 2}, 1);
    tape.require(image);
    RecordScope scope(&tape);
    const auto refused = [](const char* part, const std::function<void()>& f) {
      expect_error(ErrorCode::Unsupported, part, f);
    };
    refused("bilinear: a gradient is wanted", [&] { ops::bilinear(image, 8, 8); });
    refused("to_device: a gradient", [&] { ops::to_device(image, kCpu); });
    refused("conv2d: a gradient is wanted, which needs stride 1", [&] {
      ops::conv2d(image, ops::pack(constant({2, 3, 3, 2}, 1), DType::F32), {.stride = 2, .padding = 1});
    });
    refused("gated_activation: the gradient of inputs that share memory",
            [&] { ops::gated_activation(image, image, Activation::Gelu); });
    const Tensor tokens = image.reshape({1, 16, 2});
    AttentionParams params;
    params.segments = {{tokens, tokens}};
    refused("attention: the gradient of inputs that share", [&] { ops::attention(constant({1, 3, 2}, 1), params); });
    const Tensor half = Tensor::empty({1, 4}, DType::F16, kMetaCuda);
    CHECK(ops::activation(half, Activation::Silu).dtype() == DType::F16);
    tape.require(half);
    refused("of a float16 tensor", [&] { ops::activation(half, Activation::Silu); });
    expect_error(ErrorCode::InvalidArgument, "depends on no parameter",
                 [&] { tape.backward(constant({1}, 1), constant({1}, 1)); });
    expect_error(ErrorCode::InvalidArgument, "dy must be like y",
                 [&] { tape.backward(image, constant({1, 4, 4, 1}, 1)); });
  });
});

// A chain of layers with everything that blocks do: fan-out, a residual, a result in a wider buffer.
struct Chain {
  Tape tape;
  Layer a{tape, 1}, b{tape, 2}, c{tape, 3};
  Tensor x = iota({2, 2});
  int runs = 0;
  Chain() { tape.require(x); }

  Tensor block(const Tensor& t, const Tensor& into, bool nested) {
    runs++;
    const auto inner = [this](const Tensor& s) {
      return [this, s](const Tensor& to) {
        runs++;
        return b(ops::activation(a(s), Activation::Silu), s, 0.5f, to);
      };
    };
    const Tensor h = nested ? checkpoint({}, inner(t)) : inner(t)({});
    return c(h, t, 1, into);
  }

  Tensor forward(bool checkpointed, bool nested) {
    const Tensor wide = Tensor::empty({2, 4}, DType::F32, kCpu);
    const Tensor left = wide.slice_last(0, 2), right = wide.slice_last(2, 2);
    const auto run = [&](const Tensor& t, const Tensor& into) {
      if (!checkpointed) return block(t, into, false);
      return checkpoint(into, [=, this](const Tensor& to) { return block(t, to, nested); });
    };
    const Tensor h = run(x, right);
    run(ops::axpby(1, h, 2, x), left);
    return ops::activation(wide, Activation::Gelu);
  }

  // Gradients of everything, one after the other.
  std::vector<float> gradients(bool checkpointed, bool nested) {
    Tensor y;
    {
      RecordScope scope(&tape);
      y = forward(checkpointed, nested);
    }
    tape.backward(y, iota(y.shape(), -3));
    std::vector<float> all;
    for (const Tensor& t : {a.dw, a.db, b.dw, b.db, c.dw, c.db, tape.gradient_of(x)})
      all.insert(all.end(), t.data<float>(), t.data<float>() + t.numel());
    return all;
  }
};

const Registration checkpoints([](Suite& suite) {
  suite.add("tape checkpoints give the same bits", [] {
    Chain plain, once, nested;
    const std::vector<float> want = plain.gradients(false, false);
    CHECK(once.gradients(true, false) == want && nested.gradients(true, true) == want);
    // two blocks of two functions: forward, and again; nested ones run a third time
    CHECK(plain.runs == 4 && once.runs == 8 && nested.runs == 10);
    CHECK(nested.tape.size() == 0);
  });

  suite.add("tape checkpoint of a frozen block", [] {
    Tape tape;
    const Weight frozen = ops::pack(iota({2, 2}), DType::F32);
    const Tensor x = iota({2, 2}), constant_input = iota({2, 2});
    tape.require(x);
    Tensor y;
    {
      RecordScope scope(&tape);
      y = checkpoint({}, [&](const Tensor&) { return ops::linear(constant_input, frozen); });
      y = ops::axpby(1, y, 2, x);
    }
    tape.backward(y, constant({2, 2}, 1));
    check_values(tape.gradient_of(x), {2, 2, 2, 2});
  });
});

const Registration memory([](Suite& suite) {
  suite.add("tape gives its memory back", [] {
    const size_t start = memory_stats(kCpu).current;
    {
      Chain chain;
      const size_t before = memory_stats(kCpu).current;
      chain.gradients(true, true);
      const size_t gradient = chain.tape.gradient_of(chain.x).storage()->bytes;
      CHECK(memory_stats(kCpu).current == before + gradient);
      {
        RecordScope scope(&chain.tape);
        chain.forward(false, false);
      }
      CHECK(chain.tape.size() > 0 && memory_stats(kCpu).current > before + gradient);
      chain.tape.clear();
      CHECK(memory_stats(kCpu).current == before);
    }
    CHECK(memory_stats(kCpu).current == start);
  });

  suite.add("tape recording frees what no backward reads", [] {
    Tape tape;
    const Tensor x = constant({1024, 64}, 1);
    tape.require(x);
    const size_t before = memory_stats(kCpu).current;
    RecordScope scope(&tape);
    Tensor h = x;
    for (int i = 0; i < 8; i++) h = ops::axpby(1, h, 1, h);
    CHECK(tape.size() == 8 && memory_stats(kCpu).current == before + h.storage()->bytes);
  });

  suite.add("tape cancelled on the way back can be used again", [] {
    std::atomic<bool> cancelled{false};
    Execution execution;
    execution.cancelled = &cancelled;
    ExecutionScope scope(execution);
    const size_t start = memory_stats(kCpu).current;
    {
      Chain want, chain;
      Tensor y;
      {
        RecordScope record(&chain.tape);
        const Tensor h = chain.block(chain.x, {}, false);
        const Tensor marked = ops::axpby(1, h, 0, h);
        chain.tape.record(marked, [&](Tape&, const Tensor&) { cancelled = true; });
        y = chain.block(marked, {}, false);
      }
      expect_error(ErrorCode::Cancelled, "cancelled", [&] { chain.tape.backward(y, iota(y.shape())); });
      CHECK(chain.tape.size() == 0);
      cancelled = false;
      for (const Layer* layer : {&chain.a, &chain.b, &chain.c})
        for (const Tensor& t : {layer->dw, layer->db}) std::memset(t.raw(), 0, t.bytes());
      CHECK(chain.gradients(false, false) == want.gradients(false, false));
    }
    CHECK(memory_stats(kCpu).current == start);
  });
});

}  // namespace
}  // namespace df::test
