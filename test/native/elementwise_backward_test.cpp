// Backward of activation, gated_activation, axpby (scale_backward) and resample, against the oracle, and the oracle
// against finite differences.
#include <cmath>

#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "finite_difference.h"
#include "gradient_case.h"

namespace df::test {
namespace {

const char* name_of(Activation a) {
  return a == Activation::None ? "none" : a == Activation::Silu ? "silu" : a == Activation::Gelu ? "gelu" : "gelu_tanh";
}
const Activation kActivations[] = {Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh};

struct Variant {
  DType dtype;
  Layout layout = Layout::Dense;
  bool poisoned = false;
};

std::string describe(const Variant& v) {
  return std::string(dtype_name(v.dtype)) + (v.layout == Layout::Strided ? " strided" : "") +
         (v.poisoned ? " nan" : "");
}

// f(i) over elements, with kTiny for what is flushed to zero.
std::vector<double> errors(const Tensor& gradient, const std::function<double(size_t)>& f) {
  std::vector<double> e(size_t(gradient.numel()));
  for (size_t i = 0; i < e.size(); i++) e[i] = f(i) + kTiny;
  return e;
}

void add_activation(Suite& suite, Activation kind, int64_t rows, int64_t columns, const Variant& v) {
  const std::string name =
      format("activation_backward %s rows=%lld columns=%lld ", name_of(kind), (long long)rows, (long long)columns);
  add_gradient_op_cases(suite, name + describe(v), [=](Random& random) {
    const Shape shape{1, rows, columns};
    GradientOp op{shape, v.dtype};
    op.inputs = {random_tensor(random, shape, v.dtype, other(v.layout), -2, 2),
                 random_tensor(random, shape, v.dtype, v.layout, -12, 12)};
    if (v.poisoned) poison(op.inputs[1]);
    op.run = [=](Backend& b, const Gradient& dx, const std::vector<Tensor>& in) {
      b.activation_backward(dx, in[0], in[1], kind);
    };
    op.error = [=](const std::vector<Tensor>& in, const Tensor& g) {
      const auto dy = reference::load(in[0]), x = reference::load(in[1]), want = reference::load(g);
      return errors(g, [&](size_t i) {
        return std::abs(dy[i]) * derivative_error(x[i], kind) + 2 * kFloat * std::abs(want[i]);
      });
    };
    return op;
  });
}

// The gradient of the gate, or of the other factor.
void add_gated(Suite& suite, Activation kind, bool of_gate, int64_t rows, int64_t columns, const Variant& v) {
  const std::string name = format("gated_activation_backward %s %s rows=%lld columns=%lld ", of_gate ? "gate" : "up",
                                  name_of(kind), (long long)rows, (long long)columns);
  add_gradient_op_cases(suite, name + describe(v), [=](Random& random) {
    const Shape shape{rows, columns};
    GradientOp op{shape, v.dtype};
    op.inputs = {random_tensor(random, shape, v.dtype, other(v.layout), -2, 2),
                 random_tensor(random, shape, v.dtype, v.layout, -6, 6),
                 random_tensor(random, shape, v.dtype, other(v.layout), -3, 3)};
    if (v.poisoned) poison(op.inputs[1]);
    op.run = [=](Backend& b, const Gradient& g, const std::vector<Tensor>& in) {
      b.gated_activation_backward(of_gate ? g : Gradient{}, of_gate ? Gradient{} : g, in[0], in[1], in[2], kind);
    };
    op.error = [=](const std::vector<Tensor>& in, const Tensor& g) {
      const auto dy = reference::load(in[0]), gate = reference::load(in[1]), up = reference::load(in[2]),
                 want = reference::load(g);
      return errors(g, [&](size_t i) {
        const double products = 4 * kFloat * std::abs(want[i]);
        if (of_gate) return std::abs(dy[i] * up[i]) * derivative_error(gate[i], kind) + products;
        // the activation: as in elementwise_test.cpp
        return std::isfinite(gate[i]) ? std::abs(dy[i]) * 4 * kFloat * std::abs(gate[i]) + products : 0;
      });
    };
    return op;
  });
}

// Both gradients in one call are those of two calls.
void check_gated_together(const KernelBackend& kernels, DType dtype) {
  Backend& b = kernels.get();
  Random random("gated together");
  const Shape shape{5, 37};
  const auto input = [&] { return random_tensor(random, shape, dtype, Layout::Strided, -3, 3); };
  const Tensor dy = input(), gate = input(), up = input(), there = input();
  Tensor dgate[2], dup[2];
  for (Tensor* t : {&dgate[0], &dgate[1], &dup[0], &dup[1]}) {
    *t = guarded(shape, dtype, Layout::Dense);
    b.copy(*t, there);
  }
  b.gated_activation_backward({dgate[0], true}, {dup[0], false}, dy, gate, up, Activation::GeluTanh);
  b.gated_activation_backward({dgate[1], true}, {}, dy, gate, up, Activation::GeluTanh);
  b.gated_activation_backward({}, {dup[1], false}, dy, gate, up, Activation::GeluTanh);
  for (const std::string& error : {different_bits(dgate[0], dgate[1]), different_bits(dup[0], dup[1])})
    if (!error.empty()) fail_case("%s", error.c_str());
}

void add_scale(Suite& suite, DType to, DType from, int64_t columns, Layout layout, bool poisoned) {
  add_gradient_op_cases(
      suite,
      format("scale_backward %s from %s columns=%lld%s%s", dtype_name(to), dtype_name(from), (long long)columns,
             layout == Layout::Strided ? " strided" : "", poisoned ? " nan" : ""),
      [=](Random& random) {
        GradientOp op{{2, 3, columns}, to};
        op.inputs = {random_tensor(random, op.shape, from, layout)};
        if (poisoned) poison(op.inputs[0]);
        op.run = [=](Backend& b, const Gradient& dx, const std::vector<Tensor>& in) {
          b.scale_backward(dx, -1.3f, in[0]);
        };
        op.error = [=](const std::vector<Tensor>&, const Tensor& g) {
          const auto want = reference::load(g);
          return errors(g, [&](size_t i) { return 2 * kFloat * std::abs(want[i]); });
        };
        return op;
      });
}

void add_resample(Suite& suite, Resample mode, int64_t height, int64_t width, int64_t channels, const Variant& v) {
  const bool up = mode == Resample::NearestUp2;
  const std::string name = format("resample_backward %s h=%lld w=%lld c=%lld ", up ? "up" : "down", (long long)height,
                                  (long long)width, (long long)channels);
  add_gradient_op_cases(suite, name + describe(v), [=](Random& random) {
    GradientOp op{{2, height, width, channels}, v.dtype};
    const Shape dy{2, up ? 2 * height : height / 2, up ? 2 * width : width / 2, channels};
    op.inputs = {random_tensor(random, dy, v.dtype, v.layout)};
    if (v.poisoned) poison(op.inputs[0]);
    op.run = [=](Backend& b, const Gradient& dx, const std::vector<Tensor>& in) {
      b.resample_backward(dx, in[0], mode);
    };
    op.error = [=](const std::vector<Tensor>& in, const Tensor& g) {  // three sums, or exact
      const Tensor size = oracle(g.shape(), [&](Backend& b, Tensor& y) {
        b.resample_backward({y, false}, magnitude(in[0]), mode);
      });
      const auto sizes = reference::load(size);
      return errors(g, [&](size_t i) { return up ? 4 * kFloat * sizes[i] : 0; });
    };
    return op;
  });
}

// A case of one backward function of the reference backend against its forward function.
void add_difference(Suite& suite, const std::string& name, const std::vector<Shape>& shapes,
                    std::function<Tensor(const std::vector<Tensor>&)> forward,
                    std::function<void(const std::vector<Tensor>& in, const Tensor& dy, std::vector<Tensor>& gradients)>
                        backward) {
  add_gradient_case(suite, name + " finite difference", [=](Random& random) {
    Differentiable f;
    for (const Shape& shape : shapes)
      f.inputs.push_back(random_tensor(random, shape, DType::F32, Layout::Dense, -2, 2));
    f.forward = forward;
    f.backward = [=](const std::vector<Tensor>& in, const Tensor& dy) {
      std::vector<Tensor> gradients;
      for (const Tensor& t : in) gradients.push_back(Tensor::empty(t.shape(), DType::F32, kCpu));
      backward(in, dy, gradients);
      return gradients;
    };
    return f;
  });
}

void add_differences(Suite& suite) {
  Backend& b = reference_backend();
  for (Activation kind : kActivations) {
    const Shape shape{3, 29};
    add_difference(
        suite, std::string("activation_backward ") + name_of(kind), {shape},
        [=, &b](const std::vector<Tensor>& in) {
          Tensor y = Tensor::empty(shape, DType::F32, kCpu);
          b.activation(y, in[0], kind);
          return y;
        },
        [=, &b](const std::vector<Tensor>& in, const Tensor& dy, std::vector<Tensor>& g) {
          b.activation_backward({g[0]}, dy, in[0], kind);
        });
    add_difference(
        suite, std::string("gated_activation_backward ") + name_of(kind), {shape, shape},
        [=, &b](const std::vector<Tensor>& in) {
          Tensor y = Tensor::empty(shape, DType::F32, kCpu);
          b.gated_activation(y, in[0], in[1], kind);
          return y;
        },
        [=, &b](const std::vector<Tensor>& in, const Tensor& dy, std::vector<Tensor>& g) {
          b.gated_activation_backward({g[0]}, {g[1]}, dy, in[0], in[1], kind);
        });
  }
  add_difference(
      suite, "scale_backward", {{4, 11}, {4, 11}},
      [&b](const std::vector<Tensor>& in) {
        Tensor y = Tensor::empty(in[0].shape(), DType::F32, kCpu);
        b.axpby(y, 0.7f, in[0], -1.9f, in[1]);
        return y;
      },
      [&b](const std::vector<Tensor>&, const Tensor& dy, std::vector<Tensor>& g) {
        b.scale_backward({g[0]}, 0.7f, dy);
        b.scale_backward({g[1]}, -1.9f, dy);
      });
  for (Resample mode : {Resample::NearestUp2, Resample::AverageDown2}) {
    const bool up = mode == Resample::NearestUp2;
    add_difference(
        suite, std::string("resample_backward ") + (up ? "up" : "down"), {{2, 4, 6, 3}},
        [=, &b](const std::vector<Tensor>& in) {
          Tensor y = Tensor::empty(up ? Shape{2, 8, 12, 3} : Shape{2, 2, 3, 3}, DType::F32, kCpu);
          b.resample(y, in[0], mode);
          return y;
        },
        [=, &b](const std::vector<Tensor>&, const Tensor& dy, std::vector<Tensor>& g) {
          b.resample_backward({g[0]}, dy, mode);
        });
  }
}

const Registration elementwise_backward([](Suite& suite) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    for (Activation kind : kActivations) {
      for (int64_t n : {1, 3, 7, 8, 15, 16, 17, 33, 64, 130})
        add_activation(suite, kind, 3, n, {dtype, Layout::Strided});
      add_activation(suite, kind, 9, 1000, {dtype});
      add_activation(suite, kind, 2, 20, {dtype, Layout::Dense, true});
      for (bool of_gate : {true, false}) {
        for (int64_t n : {1, 15, 17, 64, 130}) add_gated(suite, kind, of_gate, 3, n, {dtype, Layout::Strided});
        add_gated(suite, kind, of_gate, 77, 320, {dtype});
        add_gated(suite, kind, of_gate, 2, 20, {dtype, Layout::Dense, true});
      }
    }
    for (DType from : {DType::F32, DType::BF16})
      for (int64_t n : {1, 3, 8, 15, 17, 33, 100}) {
        add_scale(suite, dtype, from, n, Layout::Strided, false);
        add_scale(suite, dtype, from, n, Layout::Dense, n == 33);
      }
    for (Layout layout : {Layout::Dense, Layout::Strided}) {
      for (int64_t channels : {1, 3, 7, 16, 17, 33, 70}) {
        add_resample(suite, Resample::NearestUp2, 3, 5, channels, {dtype, layout});
        add_resample(suite, Resample::AverageDown2, 4, 6, channels, {dtype, layout});
      }
      add_resample(suite, Resample::NearestUp2, 1, 1, 20, {dtype, layout, true});
      add_resample(suite, Resample::AverageDown2, 2, 2, 20, {dtype, layout, true});
    }
    for (const KernelBackend& kernels : kernel_backends())
      suite.add(format("gated_activation_backward both %s isa=%s", dtype_name(dtype), kernels.name.c_str()),
                [=] { check_gated_together(kernels, dtype); });
  }
  add_differences(suite);
});

}  // namespace
}  // namespace df::test
