// linear and conv2d against the oracle.
#include "ops/ops.h"
#include "product_case.h"

namespace df::test {
namespace {

void add_linear(Suite& suite, int64_t rows, int64_t in, int64_t out, const ProductCase& c, int64_t items = 1) {
  const std::string name = format("linear items=%lld rows=%lld in=%lld out=%lld ", (long long)items, (long long)rows,
                                  (long long)in, (long long)out) + describe(c);
  add_op_case(suite, name, c.dtype, [=](Random& random) {
    const Shape x_shape = items > 1 ? Shape{items, rows, in} : Shape{rows, in};
    const Shape y_shape = items > 1 ? Shape{items, rows, out} : Shape{rows, out};
    return product(
        random, c, x_shape, {out, in}, y_shape, sum_tolerance(in),
        [](Backend& b, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) { b.linear(y, x, w, e); },
        [](const Tensor& x, const Weight& w, const Epilogue& e) { return ops::linear(x, w, e); });
  });
}

struct ConvShape {
  int64_t items, height, width, in, out;
  int64_t kernel = 3;
  int stride = 1, padding = 1;
  int64_t kernel_width = 0;  // 0: square
  int64_t kernel_w() const { return kernel_width ? kernel_width : kernel; }
};

void add_conv(Suite& suite, const ConvShape& s, const ProductCase& c) {
  const std::string name =
      format("conv2d n=%lld h=%lld w=%lld in=%lld out=%lld k=%lldx%lld stride=%d padding=%d ", (long long)s.items,
             (long long)s.height, (long long)s.width, (long long)s.in, (long long)s.out, (long long)s.kernel,
             (long long)s.kernel_w(), s.stride, s.padding) + describe(c);
  add_op_case(suite, name, c.dtype, [=](Random& random) {
    const Conv2dParams p{s.stride, s.padding};
    const Shape y_shape{s.items, (s.height + 2 * s.padding - s.kernel) / s.stride + 1,
                        (s.width + 2 * s.padding - s.kernel_w()) / s.stride + 1, s.out};
    return product(
        random, c, {s.items, s.height, s.width, s.in}, {s.out, s.kernel, s.kernel_w(), s.in}, y_shape,
        sum_tolerance(s.kernel * s.kernel_w() * s.in),
        [p](Backend& b, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) { b.conv2d(y, x, w, p, e); },
        [p](const Tensor& x, const Weight& w, const Epilogue& e) { return ops::conv2d(x, w, p, e); });
  });
}

const Registration products([](Suite& suite) {
  for (DType dtype : kComputed) {
    const ProductCase plain{dtype}, bare{dtype, Layout::Dense, false};
    const ProductCase full{dtype, Layout::Strided, true, true, 0.7071f};
    // tails around every tile: 6 rows, 16/32/64 outputs, pairs and vectors of inputs
    for (int64_t rows : {1, 2, 5, 6, 7, 11, 13, 25}) add_linear(suite, rows, 33, 65, full);
    for (int64_t in : {1, 2, 3, 4, 15, 16, 17, 31, 32, 63, 64, 65, 127}) add_linear(suite, 7, in, 17, full);
    for (int64_t out : {1, 2, 3, 6, 8, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 127, 130}) {
      add_linear(suite, 7, 18, out, full);
      add_linear(suite, 7, 18, out, bare);
    }
    // rows of pairs that end with half a pair
    const ProductCase aligned{dtype, Layout::Aligned, true, true, 0.7071f};
    for (int64_t out : {1, 33, 129}) add_linear(suite, 7, 24, out, aligned);
    add_conv(suite, {2, 5, 6, 16, 35}, aligned);
    add_linear(suite, 77, 512, 192, plain);
    for (int64_t in : {2500, 10240, 13000}) add_linear(suite, 13, in, 40, plain);    // beyond one K block
    add_linear(suite, 3, 25000, 17, full);
    for (int64_t rows : {520, 1100}) add_linear(suite, rows, 40, 24, plain);         // beyond one row block
    add_linear(suite, 5, 36, 20, full, 3);                                           // (B, T, C)
    add_linear(suite, 9, 700, 33, {dtype, Layout::Dense, true, false, 1, false, true});
    add_linear(suite, 13, 35, 33, {dtype, Layout::Dense, true, false, 1, true});
    add_linear(suite, 13, 35, 33, {dtype, Layout::Strided, false, true, 1, true});

    for (int64_t side : {1, 2, 3, 4, 5, 7, 8, 9, 13}) add_conv(suite, {1, side, side, 8, 16}, full);
    for (int64_t in : {1, 3, 5, 6, 17, 32, 33, 70}) add_conv(suite, {2, 5, 6, in, 18}, full);
    for (int64_t out : {1, 3, 6, 31, 63, 65, 130}) add_conv(suite, {2, 6, 5, 10, out}, full);
    add_conv(suite, {2, 1, 9, 12, 20}, plain);
    add_conv(suite, {2, 9, 1, 12, 20}, plain);
    add_conv(suite, {1, 32, 33, 16, 32}, plain);
    add_conv(suite, {3, 8, 8, 64, 64}, plain);
    add_conv(suite, {1, 6, 7, 12, 20, 3, 1, 0}, full);
    add_conv(suite, {1, 6, 7, 12, 20, 3, 2, 1}, full);
    add_conv(suite, {1, 8, 8, 12, 20, 3, 2, 0}, plain);
    add_conv(suite, {2, 5, 7, 20, 33, 1, 1, 0}, full);
    add_conv(suite, {2, 5, 7, 20, 33, 1, 1, 0}, bare);
    add_conv(suite, {1, 9, 8, 5, 9, 7, 1, 3}, full);
    add_conv(suite, {1, 6, 7, 12, 20, 1, 2, 0}, full);
    add_conv(suite, {1, 4, 5, 12, 20, 1, 1, 1}, plain);
    add_conv(suite, {1, 6, 7, 12, 20, 3, 1, 0, 1}, full);
    add_conv(suite, {1, 6, 7, 12, 20, 2, 1, 1, 5}, full);
    add_conv(suite, {1, 2, 2, 6400, 8}, plain);                                      // beyond one K block in bf16 too
    add_conv(suite, {1, 3, 3, 1408 + 704, 8}, plain);                                // concatenations of IF-I-XL
    add_conv(suite, {1, 2, 2, 2816 + 2112, 12}, full);
    add_conv(suite, {1, 2, 3, 2816 + 2112, 9, 1, 1, 0}, plain);
    add_conv(suite, {2, 7, 9, 24, 33}, {dtype, Layout::Dense, true, false, 1, true});
    add_conv(suite, {2, 9, 6, 96, 16}, {dtype, Layout::Dense, true, true, 1, false, true});
    add_conv(suite, {2, 6, 9, 24, 33, 1, 1, 0}, {dtype, Layout::Strided, true, true, 0.5f, true});
  }
});

// Packing keeps every bit of a weight that already has the dtype, and rounds once otherwise.
const Registration packing([](Suite& suite) {
  for (const KernelBackend& kernels : kernel_backends())
    for (DType from : {DType::F32, DType::BF16, DType::F16})
      for (DType to : kComputed) {
        if (kernels.supported && !kernels.supported->computes(to)) continue;
        for (const Shape& shape : {Shape{1, 1}, Shape{17, 33}, Shape{64, 64}, Shape{130, 70}, Shape{6, 3, 3, 5},
                                   Shape{20, 1, 1, 9}, Shape{65, 3, 3, 34}, Shape{3, 7, 7, 2}})
          suite.add(
              format("pack %s from=%s to=%s isa=%s", shape.str().c_str(), dtype_name(from), dtype_name(to),
                     kernels.name.c_str()),
              [=] {
                Backend& backend = kernels.get();
                Random random(shape.str());
                const Tensor plain = random_tensor(random, shape, from, Layout::Dense);
                const Weight w = backend.pack(plain, to);
                const Shape full{w.out, w.kernel_h, w.kernel_w, w.in};
                CHECK(full.numel() == shape.numel() && w.out == shape[0] && w.in == shape[-1] && w.dtype == to);
                CHECK(w.data.bytes() == backend.packed_bytes(w.out, w.kernel_h, w.kernel_w, w.in, to));
                Tensor back = guarded(full, from, Layout::Dense), want = Tensor::empty(full, from, kCpu);
                backend.unpack(back, w);
                check_guard(back, Layout::Dense);
                Tensor rounded = Tensor::empty(full, to, kCpu);
                oracle({1}, [&](Backend& reference, Tensor&) {
                  reference.copy(rounded, plain.reshape(full));
                  reference.copy(want, rounded);
                });
                const std::string error = different_bits(back, want);
                if (!error.empty()) fail_case("%s", error.c_str());
              });
      }
});

}  // namespace
}  // namespace df::test
