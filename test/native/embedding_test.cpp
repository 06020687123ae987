// embedding and timestep_embedding against the oracle.
#include <cmath>

#include "op_case.h"
#include "ops/ops.h"

namespace df::test {
namespace {

void add_embedding(Suite& suite, DType dtype, int64_t channels, Layout layout) {
  add_op_case(suite,
              format("embedding c=%lld %s%s", (long long)channels, dtype_name(dtype),
                     layout == Layout::Strided ? " strided" : ""),
              dtype, [=](Random& random) {
                const Tensor table = random_tensor(random, {11, channels}, dtype, layout);
                const Tensor ids = ints({2, 4}, {0, 10, 3, 3, 7, 1, 0, 9});
                OpCall call;
                call.shape = {2, 4, channels};
                call.dtype = dtype;
                call.run = [=](Backend& b, Tensor& y) { b.embedding(y, ids, table); };
                call.op = [=](Device d) { return ops::embedding(on(ids, d), on(table, d)); };
                call.expected = [=] {
                  const Tensor y =
                      oracle({2, 4, channels}, [&](Backend& b, Tensor& out) { b.embedding(out, ids, exact(table)); });
                  return Expected{y, std::vector<double>(size_t(y.numel()), 0.0)};  // copies: exact
                };
                return call;
              });
}

void add_timestep_embedding(Suite& suite, int64_t dim, bool flip, float shift) {
  add_op_case(
      suite, format("timestep_embedding dim=%lld%s shift=%g", (long long)dim, flip ? " flipped" : "", double(shift)),
      [=](Random&) {
        const std::vector<double> steps = {0, 1, 37, 250, 999, 0.5};
        const Tensor t = tensor_of({int64_t(steps.size())}, steps);
        const Shape shape{t.dim(0), dim};
        OpCall call;
        call.shape = shape;
        call.run = [=](Backend& b, Tensor& y) { b.timestep_embedding(y, t, flip, shift); };
        call.op = [=](Device d) { return ops::timestep_embedding(on(t, d), dim, flip, shift); };
        call.expected = [=] {
          const Tensor y = oracle(shape, [&](Backend& b, Tensor& out) { b.timestep_embedding(out, t, flip, shift); });
          std::vector<double> error(size_t(y.numel()));
          for (int64_t i = 0; i < y.numel(); i++) {
            // the exponent ln(10000) * k / (half - shift) is below 9.3 * half / (half - shift) and carries three
            // roundings, the angle two more; sine and cosine have slope 1 and two roundings of their own
            const double half = double(dim / 2), exponent = 9.3 * half / (half - shift),
                         k = double(i % dim % (dim / 2));
            const double angle = steps[size_t(i / dim)] * std::pow(10000.0, -k / (half - shift));
            error[size_t(i)] = kFloat * ((3 * exponent + 2) * angle + 2);
          }
          return Expected{y, error};
        };
        return call;
      });
}

const Registration embeddings([](Suite& suite) {
  for (DType dtype : kComputed)
    for (int64_t channels : {1, 7, 16, 33, 512})
      for (Layout layout : {Layout::Dense, Layout::Strided}) add_embedding(suite, dtype, channels, layout);
  for (int64_t dim : {2, 3, 7, 32, 33, 192, 320})
    for (bool flip : {false, true}) {
      add_timestep_embedding(suite, dim, flip, 0);
      if (dim >= 4) add_timestep_embedding(suite, dim, flip, 1);
    }
});

}  // namespace
}  // namespace df::test
