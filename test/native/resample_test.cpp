// resample, bilinear and the layout changes against the oracle.
#include <cmath>

#include "op_case.h"
#include "ops/ops.h"

namespace df::test {
namespace {

struct Image {
  int64_t items, height, width, channels;
};

std::string describe(const Image& i, DType dtype, Layout layout) {
  return format("n=%lld h=%lld w=%lld c=%lld %s%s", (long long)i.items, (long long)i.height, (long long)i.width,
                (long long)i.channels, dtype_name(dtype), layout == Layout::Strided ? " strided" : "");
}

void add_resample(Suite& suite, Resample mode, const Image& i, DType dtype, Layout layout, bool poisoned = false) {
  const bool up = mode == Resample::NearestUp2;
  const std::string name =
      std::string("resample ") + (up ? "up " : "down ") + describe(i, dtype, layout) + (poisoned ? " nan" : "");
  add_op_case(suite, name, dtype, [=](Random& random) {
    const Tensor x = random_tensor(random, {i.items, i.height, i.width, i.channels}, dtype, layout);
    if (poisoned) poison(x);
    OpCall call;
    call.shape = up ? Shape{i.items, 2 * i.height, 2 * i.width, i.channels}
                    : Shape{i.items, i.height / 2, i.width / 2, i.channels};
    call.dtype = dtype;
    const Shape shape = call.shape;
    call.run = [=](Backend& b, Tensor& y) { b.resample(y, x, mode); };
    call.op = [=](Device d) { return ops::resample(on(x, d), mode); };
    call.expected = [=] {
      const auto run = [&](const Tensor& values) {
        return oracle(shape, [&](Backend& b, Tensor& y) { b.resample(y, values, mode); });
      };
      return Expected{run(exact(x)), scaled(run(magnitude(x)), up ? 0 : 3 * kFloat)};  // a copy, or three sums
    };
    return call;
  });
}

void add_bilinear(Suite& suite, const Image& i, int64_t height, int64_t width, DType dtype, Layout layout,
                  bool poisoned = false) {
  const std::string name = format("bilinear to %lld×%lld ", (long long)height, (long long)width) +
                           describe(i, dtype, layout) + (poisoned ? " nan" : "");
  add_op_case(suite, name, dtype, [=](Random& random) {
    const Tensor x = random_tensor(random, {i.items, i.height, i.width, i.channels}, dtype, layout);
    if (poisoned) poison(x);
    OpCall call;
    call.shape = {i.items, height, width, i.channels};
    call.dtype = dtype;
    const Shape shape = call.shape;
    call.run = [=](Backend& b, Tensor& y) { b.bilinear(y, x); };
    call.op = [=](Device d) { return ops::bilinear(on(x, d), height, width); };
    call.expected = [=] {
      const Tensor y = oracle(shape, [&](Backend& b, Tensor& out) { b.bilinear(out, exact(x)); });
      // a position of at most `size` pixels carries two float32 roundings and moves the value by at most 2 per pixel
      // (|x| <= 1); a weight's rounding, the products and the sums add six
      const double error = kFloat * (4 * double(i.height + i.width) + 6);
      return Expected{y, std::vector<double>(size_t(y.numel()), error)};
    };
    return call;
  });
}

void add_layout(Suite& suite, bool to_nhwc, const Image& i, DType dtype, Layout layout, bool poisoned = false) {
  const std::string name =
      std::string(to_nhwc ? "nchw_to_nhwc " : "nhwc_to_nchw ") + describe(i, dtype, layout) + (poisoned ? " nan" : "");
  add_op_case(suite, name, dtype, [=](Random& random) {
    const Shape nchw{i.items, i.channels, i.height, i.width}, nhwc{i.items, i.height, i.width, i.channels};
    const Tensor x =
        to_nhwc ? random_tensor(random, nchw, DType::F32, Layout::Dense) : random_tensor(random, nhwc, dtype, layout);
    if (poisoned) poison(x);
    OpCall call;
    call.shape = to_nhwc ? nhwc : nchw;
    call.dtype = to_nhwc ? dtype : DType::F32;
    call.strided = to_nhwc;
    const Shape shape = call.shape;
    const auto apply = [=](Backend& b, Tensor& y, const Tensor& values) {
      if (to_nhwc) b.nchw_to_nhwc(y, values);
      else b.nhwc_to_nchw(y, values);
    };
    call.run = [=](Backend& b, Tensor& y) { apply(b, y, x); };
    call.op = [=](Device d) { return to_nhwc ? ops::nchw_to_nhwc(on(x, d), dtype) : ops::nhwc_to_nchw(on(x, d)); };
    call.expected = [=] {
      const Tensor y = oracle(shape, [&](Backend& b, Tensor& out) { apply(b, out, exact(x)); });
      return Expected{y, std::vector<double>(size_t(y.numel()), 0.0)};  // rounded once at most
    };
    return call;
  });
}

const Registration resampling([](Suite& suite) {
  for (DType dtype : kComputed)
    for (Layout layout : {Layout::Dense, Layout::Strided}) {
      for (int64_t channels : {1, 3, 7, 8, 15, 16, 17, 33, 64, 70}) {
        add_resample(suite, Resample::NearestUp2, {2, 3, 5, channels}, dtype, layout);
        add_resample(suite, Resample::AverageDown2, {2, 4, 6, channels}, dtype, layout);
      }
      add_resample(suite, Resample::NearestUp2, {1, 1, 1, 20}, dtype, layout, true);
      add_resample(suite, Resample::AverageDown2, {1, 2, 2, 20}, dtype, layout, true);
      for (int64_t channels : {1, 3, 16, 19}) add_bilinear(suite, {2, 5, 7, channels}, 20, 28, dtype, layout);
      add_bilinear(suite, {1, 1, 1, 3}, 4, 5, dtype, layout);
      add_bilinear(suite, {1, 6, 5, 3}, 1, 1, dtype, layout);
      add_bilinear(suite, {1, 8, 9, 3}, 5, 4, dtype, layout);
      add_bilinear(suite, {1, 4, 4, 3}, 4, 4, dtype, layout);
      add_bilinear(suite, {1, 64, 64, 3}, 256, 256, dtype, layout);
      for (bool to_nhwc : {true, false})
        for (int64_t channels : {1, 3, 6, 7, 16, 33}) {
          add_layout(suite, to_nhwc, {2, 5, 7, channels}, dtype, layout);
          add_layout(suite, to_nhwc, {1, 1, 1, channels}, dtype, layout, channels == 33);
        }
    }
});

}  // namespace
}  // namespace df::test
