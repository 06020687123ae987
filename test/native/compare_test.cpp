// The comparators themselves: each has been seen to refuse.
#include <cmath>

#include "compare.h"
#include "cpu/reference/values.h"
#include "harness.h"
#include "tensors.h"

namespace df::test {
namespace {

constexpr double kError = 1e-3;

Expected want(const std::vector<double>& values) {
  return {tensor_of({int64_t(values.size())}, values), std::vector<double>(values.size(), kError)};
}
bool accepts(const std::vector<double>& got, const std::vector<double>& expected) {
  return mismatch(tensor_of({int64_t(got.size())}, got), want(expected)).empty();
}

const Registration comparators([](Suite& suite) {
  suite.add("comparator accepts what is within the tolerance", [] {
    CHECK(accepts({1, -2, 0}, {1, -2, 0}));
    CHECK(accepts({1 + 0.99 * kError, 1 - 0.99 * kError}, {1, 1}));
    CHECK(accepts({NAN, INFINITY, NAN, -INFINITY}, {NAN, INFINITY, INFINITY, NAN}));
  });
  suite.add("comparator refuses what is just outside of it, on both sides", [] {
    for (double sign : {1.0, -1.0}) {
      CHECK(!accepts({1 + sign * 1.01 * kError}, {1}));
      CHECK(!accepts({-1 + sign * 1.01 * kError}, {-1}));
      CHECK(!accepts({0, 0, sign * 1.01 * kError}, {0, 0, 0}));
    }
  });
  suite.add("comparator refuses NaN and infinity, wanted or got", [] {
    for (double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
      CHECK(!accepts({bad}, {1}));
      CHECK(!accepts({1}, {bad}));
      CHECK(!accepts({1, bad, 1}, {1, 1, 1}));
    }
  });
  suite.add("comparator lets named elements be NaN or infinite, and no others", [] {
    Expected expected = want({1, 1, NAN});
    expected.may_be_non_finite = {true, false, true};
    const auto accepted = [&](const std::vector<double>& got) {
      return mismatch(tensor_of({3}, got), expected).empty();
    };
    CHECK(accepted({1, 1, NAN}) && accepted({NAN, 1, INFINITY}) && accepted({-INFINITY, 1, NAN}));
    CHECK(!accepted({1.01, 1, NAN}) && !accepted({1, NAN, NAN}) && !accepted({1, 1, 1}));
  });
  suite.add("comparator refuses a tolerance that is NaN or missing", [] {
    const Tensor one = tensor_of({1}, {1}), near = tensor_of({1}, {1.0001});
    CHECK(!mismatch(near, {one, {NAN}}).empty());
    CHECK(!mismatch(one, {one, {}}).empty());
  });
  suite.add("comparator refuses another shape", [] {
    CHECK(!mismatch(tensor_of({2, 3}, {1, 2, 3, 4, 5, 6}), want({1, 2, 3, 4, 5, 6})).empty());
    CHECK(!mismatch(tensor_of({5}, {1, 2, 3, 4, 5}), want({1, 2, 3, 4, 5, 6})).empty());
  });
  suite.add("comparator allows one rounding to the storage type and no more", [] {
    // 1 + 2^-8 lies half-way between two bf16 values; two steps (2^-7 each) away is too far
    const Expected exact_half{tensor_of({1}, {1 + 0x1p-8}), {0}};
    for (uint16_t bits : {0x3f80, 0x3f81}) {
      Tensor got = Tensor::empty({1}, DType::BF16, kCpu);
      *got.data<BFloat16>() = {bits};
      CHECK(mismatch(got, exact_half).empty());
    }
    for (uint16_t bits : {0x3f7f, 0x3f82}) {
      Tensor got = Tensor::empty({1}, DType::BF16, kCpu);
      *got.data<BFloat16>() = {bits};
      CHECK(!mismatch(got, exact_half).empty());
    }
  });
  suite.add("bit comparison sees one bit, signs of zero and shapes", [] {
    const Tensor a = tensor_of({3}, {1, 0, 2}), b = tensor_of({3}, {1, -0.0, 2}),
                 c = tensor_of({3}, {1, 0, 2 + 2.4e-7});
    CHECK(different_bits(a, a).empty());
    CHECK(!different_bits(a, b).empty());
    CHECK(!different_bits(a, c).empty());
    CHECK(!different_bits(a, tensor_of({1, 3}, {1, 0, 2})).empty());
  });
  suite.add("guards see a write on either side of a row", [] {
    const auto failed = [](const Tensor& t, Layout layout) {
      bool thrown = false;
      try {
        check_guard(t, layout);
      } catch (...) {
        thrown = true;
      }
      return thrown;
    };
    for (int64_t place : {-1, 5}) {  // a row has 5 elements
      Tensor t = guarded({3, 5}, DType::F32, Layout::Strided);
      CHECK(!failed(t, Layout::Strided));
      t.data<float>()[t.row_stride() + place] = 1;
      CHECK(failed(t, Layout::Strided));
    }
    Tensor t = guarded({3, 5}, DType::F32, Layout::Dense);
    CHECK(!failed(t, Layout::Dense));
    t.data<float>()[-1] = 1;
    CHECK(failed(t, Layout::Dense));
  });
});

}  // namespace
}  // namespace df::test
