// CUDA products beyond the op cases: float16, every tile and split of mma.sync, and shared memory without bank conflicts.
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
        CHECK(plan.pieces == 2 && gradient_slab(out, columns, 2 * plan.pieces, 64 << 10) < out);
      }
      Random random("weight gradient");
      const OpCall call = weight_gradient(random, {dtype}, {out, 3, 3, 8}, {items, side, side, 8}, {items, side, side, out},
                                          {1, 1}, gradient_sum_tolerance);
      check_all(call, Layout::Dense);
    });
  }
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
