// int8 weights: the quantisation, linear layers against the oracle, and what quantising costs.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/quantize.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "op_case.h"
#include "ops/ops.h"

namespace df::test {
namespace {

// |x - scale * q| in units of scale: half a step, and the roundings of scale and of x / scale.
constexpr double kHalfStep = 0.5 + 0x1p-17;

const Registration quantisation([](Suite& suite) {
  const auto check_row = [](const std::vector<float>& x, float scale, const std::vector<int>& want) {
    std::vector<int8_t> q(x.size(), 99);
    CHECK(quantize_row(q.data(), x.data(), int64_t(x.size())) == scale);
    CHECK(std::equal(q.begin(), q.end(), want.begin(), want.end()));
  };
  suite.add("quantize_row by hand", [=] {
    // scale 1 and 0.25: exact values, ties to even, both signs of the largest
    check_row({127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f, -0.f, 0.49f}, 1, {127, 0, 2, 2, 0, -2, 126, 0, 0});
    check_row({-31.75f, 31.75f, 0.125f, 0.126f, -0.375f}, 0.25f, {-127, 127, 0, 1, -2});
    check_row({-5}, 5.f / 127, {-127});
    check_row({0, -0.f, 0}, 0, {0, 0, 0});
    const float least = std::numeric_limits<float>::min();
    check_row({127 * least, least, 0}, least, {127, 1, 0});
    check_row({64 * least, -least}, 0, {0, 0});  // scale would not be a normal number
    check_row({std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(), 1},
              std::numeric_limits<float>::max() / 127, {127, -127, 0});
  });
  suite.add("quantize_row stays within half a step", [] {
    Random random("quantize_row");
    for (int64_t n : {1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 100, 1023})
      for (int exponent = -100; exponent <= 100; exponent += 20) {
        std::vector<float> x(static_cast<size_t>(n));
        float largest = 0;
        for (float& v : x) {
          v = float(std::ldexp(random.uniform(-1, 1), exponent));
          largest = std::max(largest, std::abs(v));
        }
        std::vector<int8_t> q(x.size());
        const float scale = quantize_row(q.data(), x.data(), n);
        CHECK(scale == largest / 127);
        for (size_t i = 0; i < x.size(); i++) {
          CHECK(std::abs(q[i]) <= 127);
          CHECK(std::abs(double(x[i]) - double(scale) * q[i]) <= kHalfStep * double(scale));
        }
      }
  });
});

// Packing on every instruction set: the bits of the oracle, with its bytes.
const Registration packing([](Suite& suite) {
  for (const KernelBackend& kernels : kernel_backends())
    for (DType from : {DType::F32, DType::BF16, DType::F16})
      for (DType to : {DType::F32, DType::BF16})
        for (const Shape& shape : {Shape{1, 1}, Shape{17, 33}, Shape{64, 64}, Shape{130, 70}, Shape{3, 255}})
          suite.add(
              format("pack_int8 %s from=%s to=%s isa=%s", shape.str().c_str(), dtype_name(from), dtype_name(to),
                     kernels.name.c_str()),
              [=] {
                Backend& backend = kernels.get();
                Random random(shape.str());
                const Tensor plain = random_tensor(random, shape, from, Layout::Dense);
                const Weight w = backend.pack_int8(plain, to), want = reference_backend().pack_int8(plain, to);
                CHECK(w.int8() && w.out == shape[0] && w.in == shape[1] && w.dtype == to);
                CHECK(w.data.bytes() == backend.packed_bytes(w.out, 1, 1, w.in, to) / dtype_size(to));
                CHECK(w.bytes() == w.data.bytes() + size_t(w.out) * sizeof(float));
                CHECK(different_bits(w.scales, want.scales).empty());
                for (DType back : {DType::F32, DType::BF16, DType::F16}) {
                  Tensor got = guarded({w.out, 1, 1, w.in}, back, Layout::Dense);
                  backend.unpack(got, w);
                  check_guard(got, Layout::Dense);
                  Tensor expected = Tensor::empty({w.out, 1, 1, w.in}, back, kCpu);
                  reference_backend().unpack(expected, want);
                  const std::string error = different_bits(got, expected);
                  if (!error.empty()) fail_case("%s", error.c_str());
                }
              });
  suite.add("unpack gives scale * int8", [] {
    const Weight w = ops::pack_int8(tensor_of({2, 3}, {127, -3.4, 0.6, 0, 0.75, -25.4}), DType::F32);
    const Tensor plain = ops::unpack(w, DType::F32);
    const double step = double(25.4f / 127);
    const double want[] = {127, -3, 1, 0, double(float(4 * step)), double(float(-127 * step))};
    const auto got = reference::load(plain);
    for (size_t i = 0; i < 6; i++) CHECK(got[i] == want[i]);
    CHECK((plain.shape() == Shape{2, 1, 1, 3}));
  });
  suite.add("meta int8 weights have the bytes of the cpu backend", [] {
    for (DType dtype : {DType::F32, DType::BF16}) {
      const Weight cpu = ops::pack_int8(Tensor::zeros({65, 35}, DType::F32, kCpu), dtype);
      const Weight meta = ops::pack_int8(Tensor::zeros({65, 35}, DType::F32, kMeta), dtype);
      CHECK(meta.bytes() == cpu.bytes() && meta.data.device() == kMeta && meta.int8() && meta.dtype == dtype);
      CHECK(ops::unpack(meta, DType::F32).shape() == ops::unpack(cpu, DType::F32).shape());
    }
  });
  suite.add("refusals int8", [] {
    const auto refuse = [](const std::string& part, const std::function<void()>& body) {
      expect_error(ErrorCode::InvalidArgument, part, body);
    };
    const auto zeros = [](const Shape& shape, DType dtype = DType::F32) { return Tensor::zeros(shape, dtype, kCpu); };
    const Tensor plain = zeros({4, 3});
    refuse("pack_int8: plain must have 2 dimensions", [=] { ops::pack_int8(zeros({4, 1, 1, 3}), DType::F32); });
    refuse("pack_int8: plain must be f32 or bf16 or f16, got u8",
           [=] { ops::pack_int8(zeros({4, 3}, DType::U8), DType::F32); });
    refuse("pack_int8: dtype must be f32 or bf16, got f16", [=] { ops::pack_int8(plain, DType::F16); });
    const Weight w = ops::pack_int8(plain, DType::F32);
    refuse("linear: weight must be packed for bf16, got f32", [=] { ops::linear(zeros({5, 3}, DType::BF16), w); });
    refuse("conv2d: weight must be packed in f32, got int8", [=] { ops::conv2d(zeros({1, 5, 5, 3}), w, {}); });
  });
});

struct Int8Case {
  DType dtype = DType::F32;
  Layout layout = Layout::Dense;
  bool bias = false, residual = false;
  float scale = 1;
  bool poisoned = false;  // NaN and infinity in x
  bool zero_rows = false; // every third output has no weight: scale 0
};

void add_linear(Suite& suite, int64_t rows, int64_t in, int64_t out, const Int8Case& c) {
  const std::string name =
      format("linear int8 rows=%lld in=%lld out=%lld %s%s%s%s%s%s%s", (long long)rows, (long long)in, (long long)out,
             dtype_name(c.dtype), c.layout == Layout::Strided ? " strided" : "", c.bias ? " bias" : "",
             c.residual ? " residual" : "", c.scale != 1 ? " scale" : "", c.poisoned ? " nan" : "",
             c.zero_rows ? " zeros" : "");
  add_op_case(suite, name, [=](Random& random) {
    const Tensor x = random_tensor(random, {rows, in}, c.dtype, c.layout);
    if (c.poisoned) poison(x);
    const Tensor w = guarded({out, in}, DType::F32, Layout::Dense);
    fill(w, [&](int64_t i) {
      const int64_t o = i / in;  // every output has another scale
      return c.zero_rows && o % 3 == 0 ? 0 : std::ldexp(random.uniform(-1, 1), int(o % 5) - 2);
    });
    Epilogue e;
    e.scale = c.scale;
    if (c.bias) e.bias = random_tensor(random, {out}, DType::F32, Layout::Dense);
    if (c.residual) e.residual = random_tensor(random, {rows, out}, c.dtype, c.layout);

    OpCall call;
    call.shape = {rows, out};
    call.dtype = c.dtype;
    call.product = c.dtype == DType::BF16;
    call.run = [=](Backend& backend, Tensor& y) { backend.linear(y, x, backend.pack_int8(w, c.dtype), e); };
    call.op = [=](Device device) {
      return ops::linear(on(x, device), ops::pack_int8(on(w, device), c.dtype),
                         {on(e.bias, device), on(e.residual, device), e.scale});
    };
    call.expected = [=] {
      // quantisation is odd: the magnitudes of the int8 weights are the int8 weights of the magnitudes
      const auto run = [&](Tensor (*values)(const Tensor&)) {
        return oracle({rows, out}, [&](Backend& backend, Tensor& y) {
          backend.linear(y, values(x), backend.pack_int8(values(w), DType::F32),
                         {values(e.bias), values(e.residual), std::abs(e.scale)});
        });
      };
      return Expected{run(exact), scaled(run(magnitude), accumulation_error(in))};
    };
    return call;
  });
}

const Registration linears([](Suite& suite) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    const Int8Case plain{dtype}, full{dtype, Layout::Strided, true, true, 0.7071f};
    for (int64_t rows : {1, 2, 5, 6, 7, 11, 13, 25}) add_linear(suite, rows, 33, 65, full);
    for (int64_t in : {1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 65, 127}) add_linear(suite, 7, in, 17, full);
    for (int64_t out : {1, 3, 6, 8, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 96, 130}) {
      add_linear(suite, 7, 18, out, full);
      add_linear(suite, 7, 18, out, plain);
    }
    add_linear(suite, 154, 512, 192, plain);
    for (int64_t in : {1024, 1025, 2500, 10240}) add_linear(suite, 13, in, 40, plain);  // one K block and more
    add_linear(suite, 3, 5001, 17, full);
    for (int64_t rows : {520, 1100}) add_linear(suite, rows, 40, 24, plain);            // beyond one row block
    add_linear(suite, 13, 35, 33, {dtype, Layout::Strided, true, true, 1, true});
    add_linear(suite, 13, 35, 33, {dtype, Layout::Dense, true, false, 1, false, true});
  }

  // The price of int8 in one layer: half a step of each weight, times the inputs.
  for (DType dtype : {DType::F32, DType::BF16})
    suite.add(format("linear int8 is within half a step of the float weights, %s", dtype_name(dtype)), [dtype] {
      Random random("half a step");
      const int64_t rows = 20, in = 300, out = 70;
      const Tensor x = random_tensor(random, {rows, in}, dtype, Layout::Dense);
      const Tensor w = random_tensor(random, {out, in}, DType::F32, Layout::Dense);
      const auto multiply = [&](const Tensor& a, const Tensor& b) {
        return oracle({rows, out},
                      [&](Backend& backend, Tensor& y) { backend.linear(y, a, backend.pack(b, DType::F32), {}); });
      };
      const Weight packed = ops::pack_int8(w, dtype);
      const Tensor steps = Tensor::empty({out, in}, DType::F32, kCpu);
      fill(steps, [&](int64_t i) { return kHalfStep * double(packed.scales.data<float>()[i / in]); });
      const auto quantising = reference::load(multiply(magnitude(x), steps)),
                 adding = scaled(multiply(magnitude(x), magnitude(w)), 2 * accumulation_error(in));
      Expected want{multiply(exact(x), w), quantising};
      for (size_t i = 0; i < adding.size(); i++) want.error[i] += adding[i];
      const std::string error = mismatch(ops::linear(x, packed), want);
      if (!error.empty()) fail_case("%s", error.c_str());
    });
});

}  // namespace
}  // namespace df::test
