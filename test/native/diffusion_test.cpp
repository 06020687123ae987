// ddpm_step against the oracle.
#include <algorithm>
#include <cmath>

#include "cpu/reference/values.h"
#include "op_case.h"
#include "ops/ops.h"

namespace df::test {
namespace {

using Threshold = DdpmStep::Threshold;
using Variance = DdpmStep::Variance;

struct StepCase {
  DType dtype = DType::F32;  // of the model output
  int64_t batch = 2, height = 4, width = 4, channels = 3;
  bool guided = false;
  Threshold threshold = Threshold::None;
  Variance variance = Variance::Fixed;
  bool wide = false;  // Fixed, but the model has variance channels
  bool noise = true;
  Layout layout = Layout::Dense;
  float max_value = 1.5f;
  const char* poisoned = "";  // "nan" or "inf" in x
  float ratio = 0.95f;
};

std::string describe(const StepCase& c) {
  const char* const thresholds[] = {"", " clip", " dynamic"};
  const char* const variances[] = {" fixed", " learned_range", " learned"};
  return format("ddpm_step n=%lld h=%lld w=%lld c=%lld %s%s%s%s%s%s%s max=%g%s%s%s", (long long)c.batch,
                (long long)c.height, (long long)c.width, (long long)c.channels, dtype_name(c.dtype),
                c.guided ? " guided" : "", thresholds[int(c.threshold)], variances[int(c.variance)],
                c.wide ? " wide" : "", c.noise ? "" : " last", c.layout == Layout::Strided ? " strided" : "",
                double(c.max_value), c.ratio == 0.95f ? "" : format(" ratio=%g", double(c.ratio)).c_str(),
                *c.poisoned ? " " : "", c.poisoned);
}

// `want_x0`: the result under test is x0, else prev.
void add(Suite& suite, const StepCase& c, bool want_x0) {
  add_op_case(suite, describe(c) + (want_x0 ? " x0" : " prev"), c.dtype, [=](Random& random) {
    const Shape shape{c.batch, c.height, c.width, c.channels};
    const bool doubled = c.wide || c.variance != Variance::Fixed;
    const Shape model_shape{c.guided ? 2 * c.batch : c.batch, c.height, c.width, doubled ? 2 * c.channels : c.channels};
    const Tensor x = random_tensor(random, shape, DType::F32, c.layout, -2, 2);
    // `Learned` takes the square root of the output: keep it positive there
    const Tensor model =
        random_tensor(random, model_shape, c.dtype, c.layout, c.variance == Variance::Learned ? 0.01 : -1, 1);
    const Tensor noise = c.noise ? random_tensor(random, shape, DType::F32, other(c.layout), -2, 2) : Tensor();
    if (*c.poisoned) {
      const auto values = reference::load(x);
      fill(x, [&](int64_t i) { return i == 5 ? (*c.poisoned == 'n' ? NAN : INFINITY) : values[size_t(i)]; });
    }
    DdpmStep p;
    p.sample_scale = 1.7f;
    p.output_scale = -1.3f;
    p.threshold = c.threshold;
    p.clip_range = 1;
    p.ratio = c.ratio;
    p.max_value = c.max_value;
    p.x0_coef = 0.31f;
    p.x_coef = 0.68f;
    p.add_noise = c.noise;
    p.variance = c.variance;
    p.sigma = 0.2f;
    p.min_log = -5.5f;
    p.max_log = -3.1f;
    p.guidance = c.guided ? 7 : 1;

    OpCall call;
    call.shape = shape;
    call.run = [=](Backend& b, Tensor& y) {
      Tensor other = Tensor::empty(shape, DType::F32, kCpu), none;
      if (want_x0) b.ddpm_step(other, y, x, model, noise, p);
      else b.ddpm_step(y, none, x, model, noise, p);
    };
    call.op = [=](Device d) {
      const ops::DdpmResult r = ops::ddpm_step(on(x, d), on(model, d), on(noise, d), p, want_x0);
      CHECK(r.x0.defined() == want_x0);
      return want_x0 ? r.x0 : r.prev;
    };
    call.expected = [=] {
      const Tensor y = oracle(shape, [&](Backend& b, Tensor& out) {
        Tensor other = Tensor::empty(shape, DType::F32, kCpu), none;
        if (want_x0) b.ddpm_step(other, out, x, exact(model), noise, p);
        else b.ddpm_step(out, none, x, exact(model), noise, p);
      });
      // |x| <= 2 and |model| <= 1 bound every term. x0: five roundings on the sum of its terms; clamping keeps an
      // error, dynamic thresholding adds that of s (a lerp of two values) and divides by s >= min(1, max_value).
      const double guided = c.guided ? 1 + 7 * 2 : 1, terms = 1.7 * 2 + 1.3 * guided;
      double x0_error = 5 * kFloat * terms;
      if (c.threshold == Threshold::Dynamic)
        x0_error = (2 * x0_error + 4 * kFloat * terms) / std::min(1.0f, c.max_value);
      // deviation: at most 1; LearnedRange: its log carries four roundings of at most 5.5 * 2, and an exponential
      const double deviation_error = (c.variance == Variance::LearnedRange ? 0.5 * 4 * 11 + 4 : 4) * kFloat;
      const double x0_largest = c.threshold == Threshold::None ? terms : 1;
      const double prev_error = 0.31 * x0_error + 4 * kFloat * (0.31 * x0_largest + 0.68 * 2 + 2) + 2 * deviation_error;
      return Expected{y, std::vector<double>(size_t(y.numel()), want_x0 ? x0_error : prev_error)};
    };
    return call;
  });
}

const Registration steps([](Suite& suite) {
  for (bool x0 : {false, true})
    for (DType dtype : kComputed)
      for (bool guided : {false, true}) {
        for (Threshold threshold : {Threshold::None, Threshold::Clip, Threshold::Dynamic})
          for (Variance variance : {Variance::Fixed, Variance::LearnedRange, Variance::Learned})
            add(suite, {dtype, 2, 3, 5, 3, guided, threshold, variance}, x0);
        add(suite, {dtype, 2, 4, 4, 3, guided, Threshold::Dynamic, Variance::Fixed, true, true, Layout::Strided}, x0);
        add(suite,
            {dtype, 1, 4, 4, 3, guided, Threshold::Dynamic, Variance::LearnedRange, false, false, Layout::Strided}, x0);
        add(suite, {dtype, 1, 1, 1, 1, guided, Threshold::Dynamic, Variance::LearnedRange}, x0);
        add(suite, {dtype, 3, 33, 31, 3, guided, Threshold::Dynamic, Variance::LearnedRange}, x0);
        add(suite, {dtype, 2, 4, 4, 3, guided, Threshold::Dynamic, Variance::Fixed, false, true, Layout::Dense, 0.8f},
            x0);
        for (float ratio : {0.5f, 0.95f, 1.0f})  // a limit that the quantile decides
          for (int64_t height : {1, 5, 33})
            add(suite,
                {dtype, 2, height, 31, 3, guided, Threshold::Dynamic, Variance::Fixed, false, true, Layout::Dense, 100, "",
                 ratio},
                x0);
        for (const char* bad : {"nan", "inf"})
          for (Threshold threshold : {Threshold::None, Threshold::Dynamic})
            add(suite, {dtype, 2, 6, 6, 3, guided, threshold, Variance::Fixed, false, true, Layout::Dense, 1.5f, bad},
                x0);
      }
});

}  // namespace
}  // namespace df::test
