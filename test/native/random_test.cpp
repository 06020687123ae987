// TorchGenerator against torch (test/golden/rng).
#include <cmath>

#include "core/random.h"
#include "golden.h"
#include "harness.h"

namespace df::test {
namespace {

const Registration generators([](Suite& suite) {
  for (uint64_t seed : {uint64_t(0), uint64_t(1), uint64_t(42), uint64_t(123456789), (uint64_t(1) << 40) + 7})
    suite.add(format("torch randn seed=%llu", static_cast<unsigned long long>(seed)), [=] {
      const auto file = golden("rng/torch_cpu");
      TorchGenerator generator(seed);
      int call = 0;
      for (int64_t n : {1, 7, 15, 16, 17, 31, 100, 12288}) {
        const Tensor want = file->tensor(format("seed%llu.call%d.randn%lld", static_cast<unsigned long long>(seed),
                                                call++, static_cast<long long>(n)));
        std::vector<float> got(size_t(n), NAN);
        generator.normal(got.data(), n);
        for (int64_t i = 0; i < n; i++)
          if (!(std::abs(got[size_t(i)] - want.data<float>()[i]) <= 2e-6))  // golden/README.md
            fail_case("randn(%lld)[%lld]: got %.9g, expected %.9g", static_cast<long long>(n),
                      static_cast<long long>(i), double(got[size_t(i)]), double(want.data<float>()[i]));
      }
    });
  suite.add("torch rand, randint and randperm", [] {
    const auto file = golden("rng/torch_cpu");
    std::vector<float> uniform(1000);
    TorchGenerator(5).uniform(uniform.data(), 1000);
    std::vector<int64_t> integers(64), permutation(37);
    TorchGenerator(6).integers(integers.data(), 64, 1000);
    TorchGenerator(7).permutation(permutation.data(), 37);
    const Tensor u = file->tensor("seed5.rand1000"), i = file->tensor("seed6.randint1000.f32"),
                 p = file->tensor("seed7.randperm37.f32");
    for (size_t k = 0; k < uniform.size(); k++) CHECK(uniform[k] == u.data<float>()[k]);
    for (size_t k = 0; k < integers.size(); k++) CHECK(float(integers[k]) == i.data<float>()[k]);
    for (size_t k = 0; k < permutation.size(); k++) CHECK(float(permutation[k]) == p.data<float>()[k]);
  });
});

}  // namespace
}  // namespace df::test
