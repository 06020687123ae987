// CUDA products beyond the op cases: float16, every tile and split of mma.sync, and shared memory without bank conflicts.
#include <algorithm>

#include "core/storage.h"
#include "cuda/emulation/backend.h"
#include "cuda/emulation/runtime.h"
#include "cuda/gemm/plan.h"
#include "product_case.h"
#include "weight_gradient_case.h"

namespace df::test {
namespace {

using namespace gemm;

void check(Backend& backend, const OpCall& call, Layout layout) {
  Tensor y = guarded(call.shape, call.dtype, layout);
  if (call.initial.defined()) {
    const Tensor initial = exact(call.initial);
    fill(y, [&](int64_t i) { return initial.data<float>()[i]; });
  }
  call.run(backend, y);
  check_guard(y, layout);
  const std::string error = mismatch(y, call.expected());
  if (!error.empty()) fail_case("%s: %s", backend.name(), error.c_str());
}

void check_all(const OpCall& call, Layout layout) {
  for (Backend* backend : {&emulated_cuda_backend(), &emulated_cuda_mma_backend(), &emulated_cuda_wgmma_backend()})
    check(*backend, call, layout);
}

OpCall linear(Random& random, const ProductCase& c, int64_t rows, int64_t in, int64_t out) {
  return product(
      random, c, {rows, in}, {out, in}, {rows, out}, sum_tolerance(in),
      [](Backend& b, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) { b.linear(y, x, w, e); }, {});
}

OpCall conv(Random& random, const ProductCase& c, int64_t items, int64_t side, int64_t in, int64_t out) {
  return product(
      random, c, {items, side, side, in}, {out, 3, 3, in}, {items, side, side, out}, sum_tolerance(9 * in),
      [](Backend& b, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) { b.conv2d(y, x, w, {1, 1}, e); }, {});
}

constexpr int kEmulatedMultiprocessors = 4;

const Registration products([](Suite& suite) {
  for (DType dtype : {DType::BF16, DType::F16}) {
    const ProductCase dense{dtype, Layout::Dense, true, true, 0.5f}, strided{dtype, Layout::Strided, true, true, 0.5f};
    for (const ProductCase& c : {dense, strided}) {
      struct Convolution {
        int64_t items, side, in, out;
        ProductTile tile;
      };
      for (const Convolution& s : {Convolution{2, 16, 16, 200, ProductTile::Large}, {2, 16, 24, 56, ProductTile::Middle},
                                   {1, 8, 40, 72, ProductTile::Small}, {1, 9, 3, 20, ProductTile::Small}})
        suite.add(format("cuda products: conv2d n=%lld side=%lld in=%lld out=%lld ", (long long)s.items, (long long)s.side,
                         (long long)s.in, (long long)s.out) + describe(c), [=] {
          const ProductPlan plan = plan_product(s.items * s.side * s.side, s.side * s.side, s.out, ceil_div(9 * s.in, 64),
                                                kEmulatedMultiprocessors);
          CHECK(plan.tile == s.tile);
          Random random("conv");
          const OpCall call = conv(random, c, s.items, s.side, s.in, s.out);
          check_all(call, c.layout);
        });
      suite.add("cuda products: linear in 4 or more splits " + describe(c), [=] {
        CHECK(plan_product(5, 1, 24, ceil_div(2300, 64), kEmulatedMultiprocessors).splits >= 4);
        CHECK(plan_wide_product(5, 1, 24, ceil_div(2300, 64), kEmulatedMultiprocessors).splits >= 4);
        Random random("linear");
        const OpCall call = linear(random, c, 5, 2300, 24);
        check_all(call, c.layout);
      });
    }
    suite.add(format("cuda products: partial sums in several launches %s", dtype_name(dtype)), [=] {
      const int64_t rows = 600, in = 1100, out = 24;  // 600 items
      CHECK(plan_product(rows, 1, out, ceil_div(in, 64), kEmulatedMultiprocessors).splits >= 2);
      CHECK(rows * 64 * 2 * 4 > 256 << 10);
      Random random("launches");
      check_all(linear(random, {dtype}, rows, in, out), Layout::Dense);
    });
    for (int width : kWideTiles)
      suite.add(format("cuda products: tiles of %d outputs by wgmma %s", width, dtype_name(dtype)), [=] {
        CHECK(plan_wide_product(180, 90, 2 * width, 1, kEmulatedMultiprocessors).width == width);
        Random random("wide");
        const ProductCase c{dtype, Layout::Dense, true, true, 0.5f};
        check(emulated_cuda_wgmma_backend(), linear(random, c, 180, 56, 2 * width), c.layout);
      });
    suite.add(format("cuda products: weight gradient in slabs and pieces %s", dtype_name(dtype)), [=] {
      const int64_t columns = 9 * 8, items = 3, side = 24, out = 136;
      for (int64_t tile : {64, 128}) {
        const GradientPlan plan = plan_weight_gradient(side * side, out, columns, tile, kEmulatedMultiprocessors);
        CHECK(plan.pieces == 2);
        const GradientSlab slab = gradient_slab(out, 9, 8, 2 * plan.pieces, 64 << 10);
        CHECK(slab.outs < out && slab.taps < 9);
      }
      Random random("weight gradient");
      const OpCall call = weight_gradient(random, {dtype}, {out, 3, 3, 8}, {items, side, side, 8}, {items, side, side, out},
                                          {1, 1}, gradient_sum_tolerance);
      check_all(call, Layout::Dense);
    });
  }
  for (const Shape& shape : {Shape{4, 4, 4, 160}, Shape{4, 5, 1100}})
    suite.add("cuda products: an item has the same bits in every batch, " + shape.str(), [=] {
      Random random("batches");
      const int64_t in = shape[-1], out = 24;
      const bool convolution = shape.rank() == 4;
      const Tensor x = random_tensor(random, shape, DType::BF16, Layout::Dense);
      const Tensor plain = random_tensor(random, convolution ? Shape{out, 3, 3, in} : Shape{out, in}, DType::BF16,
                                         Layout::Dense);
      CHECK(plan_product(1, shape.rows() / 4, out, ceil_div(plain.numel() / out, 64), kEmulatedMultiprocessors).splits > 1);
      for (Backend* backend : {&emulated_cuda_backend(), &emulated_cuda_mma_backend(), &emulated_cuda_wgmma_backend()}) {
        const Weight w = backend->pack(plain, DType::BF16);
        const auto multiply = [&](const Tensor& items) {
          Shape result = items.shape();
          result.set(-1, out);
          Tensor y = Tensor::empty(result, DType::BF16, kCpu);
          if (convolution) backend->conv2d(y, items, w, {1, 1}, {});
          else backend->linear(y, items, w, {});
          return y;
        };
        const Tensor all = multiply(x);
        for (int64_t i = 0; i < 4; i++) {
          const std::string error = different_bits(multiply(x.slice_first(i, 1)), all.slice_first(i, 1));
          if (!error.empty()) fail_case("%s: item %lld: %s", backend->name(), (long long)i, error.c_str());
        }
      }
    });
  suite.add("cuda products: the residual is overwritten by the result, in 4 or more splits", [] {
    const int64_t rows = 5, in = 2304, out = 24;
    CHECK(plan_product(rows, 1, out, ceil_div(in, 64), kEmulatedMultiprocessors).splits >= 4);
    Random random("residual");
    const Tensor x = random_tensor(random, {rows, in}, DType::BF16, Layout::Dense);
    const Tensor w = random_tensor(random, {out, in}, DType::BF16, Layout::Dense);
    const Tensor residual = random_tensor(random, {rows, out}, DType::BF16, Layout::Dense);
    for (Backend* backend : {&emulated_cuda_backend(), &emulated_cuda_mma_backend(), &emulated_cuda_wgmma_backend()}) {
      const Weight packed = backend->pack(w, DType::BF16);
      Tensor y = Tensor::empty(residual.shape(), DType::BF16, kCpu), both = Tensor::empty(residual.shape(), DType::BF16, kCpu);
      backend->copy(both, residual);
      backend->linear(y, x, packed, {{}, residual});
      backend->linear(both, x, packed, {{}, both});
      const std::string error = different_bits(both, y);
      if (!error.empty()) fail_case("%s: %s", backend->name(), error.c_str());
    }
  });
  suite.add("cuda products: scratch is what memory plans count", [] {
    constexpr int64_t kSplits = 256 << 10, kGradient = 64 << 10, kTickets = 4 << 10;  // emulated workspaces
    const auto peak_of = [](const std::function<void()>& f) {
      release_cached(kCpu);  // a kept block may be larger
      const size_t before = memory_stats(kCpu).current;
      reset_peak(kCpu);
      f();
      return int64_t(memory_stats(kCpu).peak - before);
    };
    Random random("scratch");
    int64_t most = 0;
    for (const Shape& shape : {Shape{5, 2304, 24}, Shape{600, 1104, 24}, Shape{2, 2304, 520}, Shape{1024, 64, 320}}) {
      const Tensor x = random_tensor(random, {shape[0], shape[1]}, DType::BF16, Layout::Dense);
      const Tensor w = random_tensor(random, {shape[2], shape[1]}, DType::BF16, Layout::Dense);
      Tensor y = Tensor::empty({shape[0], shape[2]}, DType::BF16, kCpu);
      const int64_t counted = product_scratch_bytes(shape[0], 1, shape[2], 1, shape[1], kEmulatedMultiprocessors, kSplits);
      for (Backend* backend : {&emulated_cuda_backend(), &emulated_cuda_mma_backend(), &emulated_cuda_wgmma_backend()}) {
        const Weight packed = backend->pack(w, DType::BF16);
        const int64_t peak = peak_of([&] { backend->linear(y, x, packed, {}); });
        most = std::max(most, peak);
        if (!(peak <= counted + kTickets))
          fail_case("%s: linear %s takes %lld bytes, %lld counted", backend->name(), shape.str().c_str(), (long long)peak,
                    (long long)counted);
      }
    }
    CHECK(most >= kSplits / 2);
    for (const Shape& shape : {Shape{3, 24, 136}, Shape{2, 8, 64}, Shape{5, 16, 40}}) {
      const int64_t items = shape[0], side = shape[1], out = shape[2];
      const Tensor x = random_tensor(random, {items, side, side, 8}, DType::BF16, Layout::Dense);
      const Tensor dy = random_tensor(random, {items, side, side, out}, DType::BF16, Layout::Dense);
      Tensor dw = Tensor::zeros({out, 3, 3, 8}, DType::F32, kCpu);
      const int64_t counted = gradient_scratch_bytes(items, side * side, out, 9, 8, kEmulatedMultiprocessors, kGradient);
      int64_t largest = 0;
      for (Backend* backend : {&emulated_cuda_backend(), &emulated_cuda_mma_backend(), &emulated_cuda_wgmma_backend()})
        largest = std::max(largest, peak_of([&] { backend->weight_gradient(dw, x, dy, {1, 1}, 1); }));
      if (!(largest == counted))
        fail_case("weight_gradient %s takes %lld bytes, %lld counted", shape.str().c_str(), (long long)largest,
                  (long long)counted);
    }
  });
  suite.add("cuda products: ldmatrix meets no bank conflicts", [] {
    Random random("conflicts");
    const OpCall forward = conv(random, {DType::BF16}, 2, 16, 16, 200);
    const OpCall gradient = weight_gradient(random, {DType::BF16}, {136, 3, 3, 24}, {2, 5, 5, 24}, {2, 5, 5, 136}, {1, 1},
                                            gradient_sum_tolerance);
    const emu::Statistics before = emu::statistics();
    check(emulated_cuda_mma_backend(), forward, Layout::Dense);
    check(emulated_cuda_mma_backend(), gradient, Layout::Dense);
    CHECK(emu::statistics().ldmatrix > before.ldmatrix);
    CHECK(emu::statistics().ldmatrix_conflicts == before.ldmatrix_conflicts);
  });
});

}  // namespace
}  // namespace df::test
