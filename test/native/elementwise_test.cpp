// activation, gated_activation, axpby, copy and all_finite against the oracle.
#include <cmath>
#include <limits>

#include "core/execution.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "op_case.h"
#include "ops/ops.h"

namespace df::test {
namespace {

const char* name_of(Activation a) {
  return a == Activation::None ? "none" : a == Activation::Silu ? "silu" : a == Activation::Gelu ? "gelu" : "gelu_tanh";
}

// x·Φ(x), Φ wrong by up to 4 units of roundoff whatever its size (1 + erf cancels for negative x), then two products.
// SiLU is covered by the same: its sigmoid is at most 1. Φ reaches 0 where exp(-x²/2) leaves the float range.
double activation_error(double x, double y) { return kFloat * (4 * std::abs(x) + 2 * std::abs(y)) + kTiny; }

const int64_t kSizes[] = {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 1000};

struct Variant {
  DType dtype;
  Layout layout = Layout::Dense;
  bool poisoned = false;
};

std::string describe(const Variant& v) {
  return std::string(dtype_name(v.dtype)) + (v.layout == Layout::Strided ? " strided" : "") +
         (v.poisoned ? " nan" : "");
}

void add_activation(Suite& suite, Activation kind, int64_t rows, int64_t columns, const Variant& v) {
  const std::string name =
      format("activation %s rows=%lld columns=%lld ", name_of(kind), (long long)rows, (long long)columns);
  add_op_case(suite, name + describe(v), v.dtype, [=](Random& random) {
    const Tensor x = random_tensor(random, {1, rows, columns}, v.dtype, v.layout, -12, 12);
    if (v.poisoned) poison(x);
    OpCall call;
    call.shape = x.shape();
    call.dtype = v.dtype;
    call.run = [=](Backend& b, Tensor& y) { b.activation(y, x, kind); };
    call.op = [=](Device d) { return ops::activation(on(x, d), kind); };
    call.expected = [=] {
      const Tensor input = exact(x);
      const Tensor y = oracle(x.shape(), [&](Backend& b, Tensor& out) { b.activation(out, input, kind); });
      const auto xs = reference::load(input), ys = reference::load(y);
      std::vector<double> error(xs.size());
      for (size_t i = 0; i < xs.size(); i++) error[i] = activation_error(xs[i], ys[i]);
      return Expected{y, error};
    };
    return call;
  });
}

void add_gated_activation(Suite& suite, Activation kind, int64_t rows, int64_t columns, const Variant& v) {
  const std::string name =
      format("gated_activation %s rows=%lld columns=%lld ", name_of(kind), (long long)rows, (long long)columns);
  add_op_case(suite, name + describe(v), v.dtype, [=](Random& random) {
    const Tensor gate = random_tensor(random, {rows, columns}, v.dtype, v.layout, -6, 6);
    const Tensor up = random_tensor(random, {rows, columns}, v.dtype, other(v.layout), -3, 3);
    if (v.poisoned) poison(gate);
    OpCall call;
    call.shape = gate.shape();
    call.dtype = v.dtype;
    call.run = [=](Backend& b, Tensor& y) { b.gated_activation(y, gate, up, kind); };
    call.op = [=](Device d) { return ops::gated_activation(on(gate, d), on(up, d), kind); };
    call.expected = [=] {
      const Tensor g = exact(gate), u = exact(up);
      const Tensor y = oracle(gate.shape(), [&](Backend& b, Tensor& out) { b.gated_activation(out, g, u, kind); });
      const auto gs = reference::load(g), us = reference::load(u), ys = reference::load(y);
      std::vector<double> error(gs.size());
      for (size_t i = 0; i < gs.size(); i++)  // the activation's error times up, and one more product
        error[i] = activation_error(gs[i], 0) * std::abs(us[i]) + 3 * kFloat * std::abs(ys[i]) + kTiny;
      return Expected{y, error};
    };
    return call;
  });
}

void add_axpby(Suite& suite, DType y_type, DType x_type, DType z_type, int64_t columns, Layout layout, bool poisoned) {
  const std::string name = format("axpby %s from %s and %s columns=%lld%s%s", dtype_name(y_type), dtype_name(x_type),
                                  dtype_name(z_type), (long long)columns, layout == Layout::Strided ? " strided" : "",
                                  poisoned ? " nan" : "");
  const bool half = x_type == DType::F16 || z_type == DType::F16;
  add_op_case(suite, name, half ? DType::F16 : y_type, [=](Random& random) {
    const Tensor x = random_tensor(random, {2, 3, columns}, x_type, layout),
                 z = random_tensor(random, {2, 3, columns}, z_type, other(layout));
    if (poisoned) poison(x);
    OpCall call;
    call.shape = x.shape();
    call.dtype = y_type;
    call.run = [=](Backend& b, Tensor& y) { b.axpby(y, 0.75f, x, -1.3f, z); };
    call.op = [=](Device d) {  // gives the dtype of x: widened before, or rounded after
      const Tensor wide = y_type == DType::F32 && !half ? ops::copy(on(x, d), y_type) : on(x, d);
      return ops::copy(ops::axpby(0.75f, wide, -1.3f, on(z, d)), y_type);
    };
    call.expected = [=] {
      const auto run = [&](const Tensor& a, const Tensor& b, float sign) {
        return oracle(x.shape(), [&](Backend& backend, Tensor& y) { backend.axpby(y, 0.75f, a, sign * 1.3f, b); });
      };
      // three roundings
      return Expected{run(exact(x), exact(z), -1), scaled(run(magnitude(x), magnitude(z), 1), 3 * kFloat)};
    };
    return call;
  });
}

const Registration elementwise([](Suite& suite) {
  for (DType dtype : kComputed) {
    for (Activation kind : {Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh}) {
      for (int64_t n : kSizes) add_activation(suite, kind, 3, n, {dtype, Layout::Strided});
      add_activation(suite, kind, 9, 1000, {dtype});
      add_activation(suite, kind, 1, 5, {dtype});
      add_activation(suite, kind, 2, 20, {dtype, Layout::Dense, true});
    }
    for (Activation kind : {Activation::Silu, Activation::Gelu, Activation::GeluTanh}) {
      for (int64_t n : {1, 15, 17, 33, 64, 130}) add_gated_activation(suite, kind, 3, n, {dtype, Layout::Strided});
      add_gated_activation(suite, kind, 77, 320, {dtype});
      add_gated_activation(suite, kind, 2, 20, {dtype, Layout::Dense, true});
    }
    for (DType x : kComputed)
      for (DType z : kComputed) {
        if (dtype == DType::F16 && x != DType::F16) continue;  // the op gives the dtype of x
        for (int64_t n : {1, 3, 8, 15, 17, 33, 100}) {
          add_axpby(suite, dtype, x, z, n, Layout::Strided, false);
          add_axpby(suite, dtype, x, z, n, Layout::Dense, n == 33);
        }
      }
  }
});

// Every bf16 and f16 value, and float32 values next to every rounding boundary, through copy: exact, NaN stays NaN.
void check_copy(const KernelBackend& kernels, DType from, DType to, bool strided) {
  Backend& backend = kernels.get();
  Execution execution;
  ExecutionScope scope(execution);
  const Layout layout = strided ? Layout::Strided : Layout::Dense;
  Tensor x = guarded({66, 3000}, from, layout);
  fill(x, [&](int64_t i) -> double {
    const uint16_t bits = uint16_t(i);
    if (from != DType::F32) return from == DType::BF16 ? to_float(BFloat16{bits}) : to_float(Float16{bits});
    // a value of the target, half a step above it, or one float32 step to either side of that
    const float v = to == DType::F16 ? to_float(Float16{bits}) : to_float(BFloat16{bits});
    uint32_t u;
    std::memcpy(&u, &v, 4);
    const uint32_t half = to == DType::F16 ? 0x1000 : 0x8000;
    if ((u & 0x7f800000u) != 0x7f800000u && i % 4) u += half + uint32_t(i % 4) - 2;
    float out;
    std::memcpy(&out, &u, 4);
    return out;
  });
  Tensor y = guarded(x.shape(), to, layout), want = Tensor::empty(x.shape(), to, kCpu);
  backend.copy(y, x);
  check_guard(y, layout);
  reference_backend().copy(want, x);
  const auto xs = reference::load(x), ys = reference::load(y), ws = reference::load(want);
  for (size_t i = 0; i < ys.size(); i++) {
    const bool flushed = std::abs(xs[i]) < kTiny && ys[i] == 0;  // denormal float32 values may count as zero
    const bool same =
        std::isnan(ws[i]) ? std::isnan(ys[i]) : ys[i] == ws[i] && std::signbit(ys[i]) == std::signbit(ws[i]);
    if (!same && !flushed) fail_case("%.9g became %.9g, expected %.9g", xs[i], ys[i], ws[i]);
  }
}

void check_all_finite(const KernelBackend& kernels, DType dtype, int64_t columns) {
  Backend& backend = kernels.get();
  Random random("all_finite");
  for (Layout layout : {Layout::Dense, Layout::Strided}) {  // what surrounds the tensor is NaN
    const Tensor x = random_tensor(random, {3, columns}, dtype, layout, -60000, 60000);
    CHECK(backend.all_finite(x));
    const auto values = reference::load(x);
    for (int64_t place = 0; place < x.numel(); place++)
      for (double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
        fill(x, [&](int64_t i) { return i == place ? bad : values[size_t(i)]; });
        CHECK(!backend.all_finite(x));
      }
  }
}

const Registration conversions([](Suite& suite) {
  for (const KernelBackend& kernels : kernel_backends()) {
    for (DType from : {DType::F32, DType::BF16, DType::F16})
      for (DType to : {DType::F32, DType::BF16, DType::F16})
        for (bool strided : {false, true})
          suite.add(
              format("copy %s to %s%s isa=%s", dtype_name(from), dtype_name(to), strided ? " strided" : "",
                     kernels.name.c_str()),
              [=] { check_copy(kernels, from, to, strided); });
    for (DType dtype : {DType::F32, DType::BF16, DType::F16})
      for (int64_t columns : {1, 7, 16, 33, 70})
        suite.add(format("all_finite %s columns=%lld isa=%s", dtype_name(dtype), (long long)columns,
                         kernels.name.c_str()),
                  [=] { check_all_finite(kernels, dtype, columns); });
  }
});

}  // namespace
}  // namespace df::test
