// How the CUDA products are cut.
#include "cuda/gemm/plan.h"
#include "harness.h"

namespace df::test {
namespace {

using namespace gemm;

const Registration plans([](Suite& suite) {
  suite.add("plan_product: every share has work, and splits ignore the number of items", [] {
    for (int multiprocessors : {4, 28, 108, 132})
      for (int64_t item_rows : {1, 64, 77, 256, 1024, 4096, 65536})
        for (int64_t out : {6, 320, 704, 1408, 2816, 10240})
          for (int64_t steps : {1, 2, 5, 7, 8, 15, 16, 90, 396, 1000}) {
            const ProductPlan one = plan_product(item_rows, item_rows, out, steps, multiprocessors);
            CHECK(one.splits >= 1 && one.splits <= kMostSplits);
            CHECK(one.splits == 1 || steps / one.splits >= kLeastSplitSteps);
            for (int64_t items : {2, 3, 16})
              CHECK(plan_product(items * item_rows, item_rows, out, steps, multiprocessors).splits == one.splits);
          }
  });
  suite.add("plan_product: large results are not split, small ones are, and tiles follow the size", [] {
    // 3×3 convolutions of IF-I-XL for two items on 132 multiprocessors
    const ProductPlan wide = plan_product(2 * 4096, 4096, 704, 9 * 11, 132);
    CHECK(wide.splits == 1 && wide.tile == ProductTile::Large);
    const ProductPlan deep = plan_product(2 * 64, 64, 2816, 9 * 44, 132);
    CHECK(deep.splits > 2);
    CHECK(plan_product(16, 1, 320, 20, 132).tile == ProductTile::Small);
    CHECK(plan_product(2 * 65536, 65536, 64, 9, 132).tile == ProductTile::Middle);
  });
  suite.add("plan_product: no tile and split is cheaper than the chosen ones", [] {
    for (int64_t item_rows : {64, 1024})
      for (int64_t out : {320, 2112}) {
        const ProductPlan plan = plan_product(2 * item_rows, item_rows, out, 100, 108);
        double chosen = 0;
        for (const TileCost& t : kTileCosts)
          if (t.tile == plan.tile) chosen = product_cost(t, 2 * item_rows, out, 100, plan.splits, 108);
        for (const TileCost& t : kTileCosts)
          for (int splits = 1; splits <= 12; splits++)
            CHECK(chosen <= product_cost(t, 2 * item_rows, out, 100, splits, 108));
      }
  });
  suite.add("plan_wide_product: widths of the models, and splits that ignore the number of items", [] {
    CHECK(plan_wide_product(2 * 4096, 4096, 704, 9 * 11, 132).width == 176);
    CHECK(plan_wide_product(2 * 1024, 1024, 640, 9 * 10, 132).width == 160);
    CHECK(plan_wide_product(2 * 4096, 4096, 6, 9 * 3, 132).width == 64);
    CHECK(plan_wide_product(2 * 64, 64, 2816, 9 * 44, 132).splits > 4);
    for (int64_t item_rows : {1, 77, 1024, 65536})
      for (int64_t out : {6, 320, 1408, 10240})
        for (int64_t steps : {1, 15, 16, 396})
          for (int64_t items : {1, 3, 16}) {
            const WidePlan one = plan_wide_product(item_rows, item_rows, out, steps, 132);
            CHECK(one.splits == 1 || steps / one.splits >= kLeastSplitSteps);
            CHECK(plan_wide_product(items * item_rows, item_rows, out, steps, 132).splits == one.splits);
          }
  });
  suite.add("plan_box: 128 pixels, and every picture covered by the fewest boxes", [] {
    for (int64_t images : {1, 2, 3, 16})
      for (int64_t height : {1, 5, 8, 64})
        for (int64_t width : {1, 7, 8, 24, 64, 1000}) {
          const PixelBox b = plan_box(images, height, width);
          CHECK(b.n * b.h * b.w == 128);
          CHECK(b.n * b.tiles_n >= images && b.h * b.tiles_h >= height && b.w * b.tiles_w >= width);
          CHECK(b.n * (b.tiles_n - 1) < images && b.h * (b.tiles_h - 1) < height && b.w * (b.tiles_w - 1) < width);
        }
    const PixelBox small = plan_box(2, 8, 8), flat = plan_box(1, 1, 1000), odd = plan_box(1, 24, 24);
    CHECK(small.n == 2 && small.h == 8 && small.w == 8 && small.tiles_n == 1);
    CHECK(flat.w == 128 && flat.tiles_w == 8);
    CHECK(odd.tiles_n * odd.tiles_h * odd.tiles_w == 6);
  });
  suite.add("plan_weight_gradient: pieces cover a pair of items exactly", [] {
    for (int multiprocessors : {4, 132})
      for (int64_t tile : {64, 128})
        for (int64_t item_rows : {1, 2, 33, 255, 256, 257, 700, 4096, 65536})
          for (int64_t out : {1, 64, 320, 2816}) {
            const GradientPlan plan = plan_weight_gradient(item_rows, out, 9 * out, tile, multiprocessors);
            CHECK(plan.pieces * plan.piece_rows >= 2 * item_rows);
            CHECK((plan.pieces - 1) * plan.piece_rows < 2 * item_rows);
            CHECK(plan.pieces == 1 || (plan.piece_rows >= 512 && plan.piece_rows % 64 == 0));
          }
    CHECK(plan_weight_gradient(65536, 64, 64, 128, 132).pieces > 100);
    CHECK(plan_weight_gradient(64, 2816, 9 * 2816, 128, 132).pieces == 1);
  });
  suite.add("gradient_slab: whole tiles that fit the workspace, or some taps of one tile", [] {
    const auto check = [](const GradientSlab& slab, int64_t outs, int64_t taps) {
      CHECK(slab.outs == outs && slab.taps == taps);
    };
    check(gradient_slab(100, 9, 1, 2, 1 << 30), 100, 9);
    check(gradient_slab(1000, 4, 256, 4, 4 << 20), 256, 4);
    check(gradient_slab(1000, 4, 256, 4, 5 << 20), 256, 4);
    check(gradient_slab(1000, 9, 256, 4, 2 << 20), 128, 4);
    check(gradient_slab(1000, 9, 256, 4, 1), 128, 1);
    check(gradient_slab(2816, 9, 2816, 8, 64 << 20), 128, 5);
  });
});

}  // namespace
}  // namespace df::test
