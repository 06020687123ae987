// The gradients of linear and conv2d against the oracle, and the oracle against finite differences.
#include <cmath>
#include <cstring>

#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "finite_difference.h"
#include "weight_gradient_case.h"

namespace df::test {
namespace {

struct ConvShape {
  int64_t items, height, width, in, out;
  int64_t kernel = 3;
  int padding = 1;
  int64_t kernel_width = 0;  // 0: square
  int64_t kernel_w() const { return kernel_width ? kernel_width : kernel; }
  Conv2dParams p() const { return {1, padding}; }
  Shape x() const { return {items, height, width, in}; }
  Shape w() const { return {out, kernel, kernel_w(), in}; }
  Shape y() const { return {items, height + 2 * padding - kernel + 1, width + 2 * padding - kernel_w() + 1, out}; }
};

std::string describe(const ConvShape& s) {
  return format("n=%lld h=%lld w=%lld in=%lld out=%lld k=%lldx%lld padding=%d", (long long)s.items, (long long)s.height,
                (long long)s.width, (long long)s.in, (long long)s.out, (long long)s.kernel, (long long)s.kernel_w(),
                s.padding);
}

Shape with_channels(Shape rows, int64_t channels) {
  rows.push_back(channels);
  return rows;
}

/// rows: the dimensions of x and dy before the channels.
void add_linear(Suite& suite, const Shape& rows, int64_t in, int64_t out, const WeightGradientCase& c) {
  const std::string name = format("weight_gradient linear rows=%s in=%lld out=%lld ", rows.str().c_str(), (long long)in,
                                  (long long)out) + describe(c);
  add_op_case(suite, name, [=](Random& random) {
    return weight_gradient(random, c, {out, in}, with_channels(rows, in), with_channels(rows, out), {},
                           gradient_sum_tolerance);
  });
}

void add_conv(Suite& suite, const ConvShape& s, const WeightGradientCase& c) {
  add_op_case(suite, "weight_gradient conv2d " + describe(s) + " " + describe(c), [=](Random& random) {
    return weight_gradient(random, c, s.w(), s.x(), s.y(), s.p(), gradient_sum_tolerance);
  });
}

void add_bias(Suite& suite, const Shape& shape, const WeightGradientCase& c) {
  add_op_case(suite, "bias_gradient " + shape.str() + " " + describe(c), [=](Random& random) {
    const Tensor dy = random_tensor(random, shape, c.dtype, c.layout, c.one_sign ? 0 : -1, 1);
    if (c.poisoned) poison(dy);
    OpCall call;
    call.shape = {shape[-1]};
    call.strided = false;
    const Tensor initial = call.initial = random_tensor(random, call.shape, DType::F32, Layout::Dense);
    call.run = [=](Backend& backend, Tensor& db) { backend.bias_gradient(db, dy, c.scale); };
    call.expected = [=] {
      const auto add = [](const Tensor& to, const Tensor& gradient, float scale) {
        return oracle(to.shape(), [&](Backend& backend, Tensor& db) {
          std::memcpy(db.raw(), to.raw(), db.bytes());
          backend.bias_gradient(db, gradient, scale);
        });
      };
      const Tensor sum = add(magnitude(initial), magnitude(dy), std::abs(c.scale));
      return Expected{add(exact(initial), exact(dy), c.scale), scaled(sum, accumulation_error(dy.rows()))};
    };
    return call;
  });
}

const Registration gradients([](Suite& suite) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    const WeightGradientCase plain{dtype}, full{dtype, Layout::Strided, -0.37f};
    const WeightGradientCase poisoned{dtype, Layout::Strided, 0.5f, true}, one_sign{dtype, Layout::Dense, 1, false, true};
    // tails around every tile: 6 inputs, 16/32/64 outputs, pairs of rows and of items
    for (int64_t rows : {1, 2, 3, 7, 12}) add_linear(suite, {2, rows}, 13, 65, full);
    for (int64_t items : {1, 2, 3, 4, 5, 6, 7, 8, 11}) {
      add_linear(suite, {items, 5}, 11, 33, full);
      add_linear(suite, {items}, 37, 70, full);
    }
    for (int64_t in : {1, 2, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 31, 33, 64, 130}) {
      add_linear(suite, {3, 5}, in, 17, full);
      add_linear(suite, {4}, in, 17, plain);
    }
    for (int64_t out : {1, 2, 3, 6, 8, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 127, 130}) {
      add_linear(suite, {2, 7}, 18, out, full);
      add_linear(suite, {3}, 18, out, full);
    }
    add_linear(suite, {4, 77}, 200, 96, plain);
    add_linear(suite, {2, 700}, 40, 24, one_sign);            // beyond one block of rows
    add_linear(suite, {3, 2500}, 7, 70, full);
    add_linear(suite, {2, 3, 4}, 20, 36, full);               // (B, H, W, C)
    add_linear(suite, Shape{}, 20, 36, full);                 // (C): one row
    add_linear(suite, {2, 9}, 35, 33, poisoned);
    add_linear(suite, {3, 5}, 35, 33, poisoned);
    add_linear(suite, {3}, 35, 33, poisoned);

    for (int64_t side : {1, 2, 3, 4, 5, 7, 8, 9, 13}) add_conv(suite, {2, side, side, 8, 16}, full);
    for (int64_t items : {1, 3, 4, 5, 6, 8}) add_conv(suite, {items, 4, 5, 7, 18}, full);
    for (int64_t in : {1, 3, 5, 6, 17, 32, 33, 70}) add_conv(suite, {3, 5, 6, in, 18}, full);
    for (int64_t out : {1, 3, 6, 31, 63, 65, 130}) add_conv(suite, {2, 6, 5, 10, out}, full);
    add_conv(suite, {2, 1, 9, 12, 20}, plain);
    add_conv(suite, {2, 9, 1, 12, 20}, plain);
    add_conv(suite, {1, 32, 33, 9, 32}, plain);
    add_conv(suite, {3, 8, 8, 64, 64}, one_sign);
    add_conv(suite, {2, 5, 7, 20, 33, 1, 0}, full);
    add_conv(suite, {4, 5, 7, 20, 33, 1, 0}, plain);
    add_conv(suite, {1, 6, 7, 12, 20, 3, 0}, full);
    add_conv(suite, {2, 6, 7, 12, 20, 3, 2}, full);
    add_conv(suite, {2, 9, 8, 5, 9, 7, 3}, full);
    add_conv(suite, {2, 4, 5, 12, 20, 1, 1}, plain);
    add_conv(suite, {3, 6, 7, 12, 20, 2, 1, 5}, full);
    add_conv(suite, {1, 6, 7, 12, 20, 3, 0, 1}, full);
    add_conv(suite, {2, 7, 9, 24, 33}, poisoned);
    add_conv(suite, {3, 6, 9, 24, 33, 1, 0}, poisoned);

    for (int64_t channels : {1, 3, 4, 8, 15, 16, 17, 33, 64, 70}) add_bias(suite, {3, 5, 2, channels}, full);
    for (int64_t items : {1, 2, 4, 5, 7}) add_bias(suite, {items, 6}, full);
    add_bias(suite, {2, 700, 40}, plain);
    add_bias(suite, {2, 33, 40, 12}, one_sign);
    add_bias(suite, {9}, full);
    add_bias(suite, {2, 9, 33}, poisoned);
  }
});

const Registration finite_differences([](Suite& suite) {
  Backend& backend = reference_backend();
  for (const ConvShape& s : {ConvShape{2, 5, 4, 3, 6}, {3, 4, 5, 5, 2, 1, 0}, {1, 4, 4, 3, 4, 3, 0},
                             {2, 3, 4, 2, 3, 5, 2}, {2, 3, 3, 4, 3, 2, 1}})
    add_gradient_case(suite, "gradient of conv2d " + describe(s), [=, &backend](Random& random) {
      Differentiable f;
      f.inputs = {random_tensor(random, s.x(), DType::F32, Layout::Dense),
                  random_tensor(random, s.w(), DType::F32, Layout::Dense),
                  random_tensor(random, {s.out}, DType::F32, Layout::Dense)};
      f.forward = [=, &backend](const std::vector<Tensor>& in) {
        Tensor y = Tensor::empty(s.y(), DType::F32, kCpu);
        Epilogue e;
        e.bias = in[2];
        backend.conv2d(y, in[0], backend.pack(in[1], DType::F32), s.p(), e);
        return y;
      };
      f.backward = [=, &backend](const std::vector<Tensor>& in, const Tensor& dy) {
        Tensor dx = Tensor::empty(s.x(), DType::F32, kCpu), dw = Tensor::zeros(s.w(), DType::F32, kCpu),
               db = Tensor::zeros({s.out}, DType::F32, kCpu);
        backend.conv2d(dx, dy, backend.pack_transposed(in[1], DType::F32), {1, int(s.kernel) - 1 - s.padding}, {});
        backend.weight_gradient(dw, in[0], dy, s.p(), 1);
        backend.bias_gradient(db, dy, 1);
        return std::vector<Tensor>{dx, dw, db};
      };
      return f;
    });
  for (const Shape& rows : {Shape{3}, Shape{2, 5}})
    add_gradient_case(suite, "gradient of linear rows=" + rows.str(), [=, &backend](Random& random) {
      Differentiable f;
      const Shape x_shape = with_channels(rows, 7), y_shape = with_channels(rows, 4);
      f.inputs = {random_tensor(random, x_shape, DType::F32, Layout::Dense),
                  random_tensor(random, {4, 7}, DType::F32, Layout::Dense)};
      f.forward = [=, &backend](const std::vector<Tensor>& in) {
        Tensor y = Tensor::empty(y_shape, DType::F32, kCpu);
        backend.linear(y, in[0], backend.pack(in[1], DType::F32), {});
        return y;
      };
      f.backward = [=, &backend](const std::vector<Tensor>& in, const Tensor& dy) {
        Tensor dx = Tensor::empty(x_shape, DType::F32, kCpu), dw = Tensor::zeros({4, 7}, DType::F32, kCpu);
        backend.linear(dx, dy, backend.pack_transposed(in[1], DType::F32), {});
        backend.weight_gradient(dw, in[0], dy, {}, 1);
        return std::vector<Tensor>{dx, dw};
      };
      return f;
    });
});

const Registration replicas([](Suite& suite) {
  for (DType dtype : {DType::F32, DType::BF16})
    for (int64_t items : {4, 8, 16}) {
      const auto add_weight = [&](const std::string& name, const Shape& x_shape, const Shape& dw_shape,
                                  const Shape& dy_shape, const Conv2dParams& p) {
        add_replica_cases(suite, format("weight_gradient %s items=%lld %s", name.c_str(), (long long)items,
                                        dtype_name(dtype)), items, dw_shape, [=](Random& random) -> AddGradient {
          const Tensor x = random_tensor(random, x_shape, dtype, Layout::Dense),
                       dy = random_tensor(random, dy_shape, dtype, Layout::Dense);
          return [=](Backend& backend, Tensor& dw, int64_t first, int64_t count) {
            backend.weight_gradient(dw, x.slice_first(first, count), dy.slice_first(first, count), p, 0.7f);
          };
        });
      };
      for (const ConvShape& s : {ConvShape{items, 19, 13, 14, 20}, {items, 3, 2, 14, 20}, {items, 6, 5, 14, 20, 1, 0}})
        add_weight("conv2d " + describe(s), s.x(), s.w(), s.y(), s.p());
      for (int64_t rows : {1, 7, 77, 300})
        add_weight(format("linear rows=%lld", (long long)rows), {items, rows, 19}, {21, 19}, {items, rows, 21}, {});
      add_weight("linear", {items, 19}, {21, 19}, {items, 21}, {});
      add_replica_cases(suite, format("bias_gradient items=%lld %s", (long long)items, dtype_name(dtype)), items, {37},
                        [=](Random& random) -> AddGradient {
        const Tensor dy = random_tensor(random, {items, 9, 31, 37}, dtype, Layout::Dense);
        return [=](Backend& backend, Tensor& db, int64_t first, int64_t count) {
          backend.bias_gradient(db, dy.slice_first(first, count), 0.7f);
        };
      });
    }
});

// The weight of the input gradient is the packed transpose, bit for bit.
const Registration packing([](Suite& suite) {
  for (const KernelBackend& kernels : kernel_backends())
    for (DType from : {DType::F32, DType::BF16, DType::F16})
      for (DType to : {DType::F32, DType::BF16})
        for (const Shape& shape :
             {Shape{1, 1}, Shape{17, 33}, Shape{64, 64}, Shape{130, 70}, Shape{70, 131}, Shape{6, 3, 3, 5},
              Shape{20, 1, 1, 9}, Shape{65, 3, 3, 34}, Shape{34, 3, 3, 81}, Shape{3, 7, 7, 2}, Shape{5, 2, 3, 4}})
          suite.add(format("pack_transposed %s from=%s to=%s isa=%s", shape.str().c_str(), dtype_name(from),
                           dtype_name(to), kernels.name.c_str()), [=] {
            Backend& backend = kernels.get();
            Random random(shape.str());
            const Tensor plain = random_tensor(random, shape, from, Layout::Dense);
            const int64_t out = shape[0], in = shape[-1], taps = shape.numel() / (out * in);
            const bool convolution = shape.rank() == 4;
            const Tensor transposed = guarded(convolution ? Shape{in, shape[1], shape[2], out} : Shape{in, out}, from,
                                              Layout::Dense);
            const auto values = reference::load(plain);
            fill(transposed, [&](int64_t e) {
              const int64_t o = e % out, tap = e / out % taps, i = e / (out * taps);
              return values[size_t((o * taps + taps - 1 - tap) * in + i)];
            });
            const Weight got = backend.pack_transposed(plain, to), want = backend.pack(transposed, to);
            CHECK(got.out == in && got.in == out && got.kernel_h == want.kernel_h && got.kernel_w == want.kernel_w);
            CHECK(got.dtype == to && got.layout == want.layout);
            const std::string error = different_bits(got.data, want.data);
            if (!error.empty()) fail_case("%s", error.c_str());
            const Weight meta = backend_for(kMeta).pack_transposed(Tensor::empty(shape, from, kMeta), to);
            CHECK(meta.out == in && meta.in == out && meta.dtype == to);
            CHECK(meta.data.bytes() == backend_for(kCpu).packed_bytes(in, meta.kernel_h, meta.kernel_w, out, to));
          });
});

}  // namespace
}  // namespace df::test
