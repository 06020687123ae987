// The oracle against results that were worked out by hand (or, for the sampler, recorded from diffusers).
#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"
#include "golden.h"
#include "harness.h"
#include "op_case.h"

namespace df::test {
namespace {

// Values of a float32 result within a few roundings.
void check_values(const Tensor& y, const std::vector<double>& want) {
  const auto got = reference::load(y);
  CHECK(got.size() == want.size());
  for (size_t i = 0; i < got.size(); i++)
    if (!(std::abs(got[i] - want[i]) <= 2 * kFloat * std::abs(want[i]) + 1e-9))
      fail_case("element %zu: got %.9g, expected %.9g", i, got[i], want[i]);
}

Weight packed(const Shape& shape, const std::vector<double>& values) {
  return reference_backend().pack(tensor_of(shape, values), DType::F32);
}

const Registration products([](Suite& suite) {
  suite.add("reference linear", [] {
    const Tensor x = tensor_of({2, 3}, {1, 2, 3, -1, 0, 2});
    const Weight w = packed({2, 3}, {1, 0, -1, 2, 1, 0.5});
    const Tensor bias = tensor_of({2}, {10, 20}), residual = tensor_of({2, 2}, {1, 2, 3, 4});
    check_values(oracle({2, 2}, [&](Backend& b, Tensor& y) { b.linear(y, x, w, {}); }), {-2, 5.5, -3, -1});
    check_values(oracle({2, 2}, [&](Backend& b, Tensor& y) { b.linear(y, x, w, {bias, residual, 0.5f}); }),
                 {4.5, 13.75, 5, 11.5});
  });
  suite.add("reference conv2d", [] {
    // one channel, 3×3 ones and a centre of 10: the sum of the neighbours, the border outside counting as zero
    const Tensor x = tensor_of({1, 2, 3, 1}, {1, 2, 3, 4, 5, 6});
    const Weight w = packed({1, 3, 3, 1}, {1, 1, 1, 1, 10, 1, 1, 1, 1});
    check_values(oracle({1, 2, 3, 1}, [&](Backend& b, Tensor& y) { b.conv2d(y, x, w, {1, 1}, {}); }),
                 {21, 39, 43, 48, 66, 70});
    check_values(oracle({1, 1, 2, 1}, [&](Backend& b, Tensor& y) { b.conv2d(y, x, w, {2, 1}, {}); }), {21, 43});
    // taps and channels are not mirrored: out = x[i][j+1][channel 1]
    const Tensor two = tensor_of({1, 1, 3, 2}, {1, 10, 2, 20, 3, 30});
    const Weight shift = packed({1, 1, 3, 2}, {0, 0, 0, 0, 0, 1});
    check_values(oracle({1, 1, 1, 1}, [&](Backend& b, Tensor& y) { b.conv2d(y, two, shift, {1, 0}, {}); }), {30});
  });
  suite.add("reference attention", [] {
    const Tensor q = tensor_of({1, 1, 2}, {1, 0});
    const auto attend = [&](AttentionParams p) {
      return oracle({1, 1, 2}, [&](Backend& b, Tensor& y) { b.attention(y, q, p); });
    };
    const KeyValue one{tensor_of({1, 1, 2}, {3, 4}), tensor_of({1, 1, 2}, {5, 7})};
    check_values(attend({1, 1, {one}, {}, {}}), {5, 7});
    // text key (0, 9), image keys (ln 3, 0) and (0, 0): weights 1/5, 3/5, 1/5
    const KeyValue text{tensor_of({1, 1, 2}, {0, 9}), tensor_of({1, 1, 2}, {10, 0})};
    const KeyValue image{tensor_of({1, 2, 2}, {2 * std::log(3.0), 0, 0, 0}), tensor_of({1, 2, 2}, {0, 5, 0, 10})};
    check_values(attend({1, 0.5f, {text, image}, {}, {}}), {2, 5});
    check_values(attend({1, 0.5f, {text, image}, {}, ints({1, 3}, {1, 0, 1})}), {5, 5});
    check_values(attend({1, 0.5f, {text, image}, tensor_of({1, 1, 3}, {std::log(6.0), 0, 0}), {}}), {6, 2.5});
    // two heads of width 1 do not mix
    const KeyValue heads{tensor_of({1, 2, 2}, {std::log(3.0), 5, 0, 5}), tensor_of({1, 2, 2}, {4, 1, 8, 3})};
    check_values(attend({2, 1, {heads}, {}, {}}), {5, 2});
  });
});

const Registration norms([](Suite& suite) {
  suite.add("reference group_norm", [] {
    // groups {0, 1} and {2, 3} over two pixels: values 1, 3, 5, 7 (mean 4, variance 5) and 2, 2, 2, 2
    const Tensor x = tensor_of({1, 1, 2, 4}, {1, 3, 2, 2, 5, 7, 2, 2});
    GroupNormParams p;
    p.groups = 2;
    p.eps = 4;  // 1 / sqrt(5 + 4) = 1/3
    p.gamma = tensor_of({4}, {3, 6, 1, 1});
    p.beta = tensor_of({4}, {0, 1, 8, 9});
    const auto run = [&] { return oracle(x.shape(), [&](Backend& b, Tensor& y) { b.group_norm(y, x, p); }); };
    check_values(run(), {-3, -1, 8, 9, 1, 7, 8, 9});
    p.scale = tensor_of({1, 4}, {1, 0, -1, 0.5});
    p.shift = tensor_of({1, 4}, {10, 0, 4, 0});
    check_values(run(), {4, -1, 4, 13.5, 12, 7, 4, 13.5});
    p.activation = Activation::Silu;
    check_values(run().slice_last(1, 1), {-1 / (1 + std::exp(1.0)), 7 / (1 + std::exp(-7.0))});
  });
  suite.add("reference layer_norm and rms_norm", [] {
    const Tensor x = tensor_of({2, 4}, {1, 3, 5, 7, 0, 0, 0, 0}), gamma = tensor_of({4}, {3, 6, 1, 1}),
                 beta = tensor_of({4}, {0, 1, 2, 3});
    check_values(oracle({2, 4}, [&](Backend& b, Tensor& y) { b.layer_norm(y, x, gamma, beta, 4); }),
                 {-3, -1, 2 + 1.0 / 3, 4, 0, 1, 2, 3});
    // mean square 21, + 4 = 25
    check_values(oracle({2, 4}, [&](Backend& b, Tensor& y) { b.rms_norm(y, x, gamma, 4); }),
                 {0.6, 3.6, 1, 1.4, 0, 0, 0, 0});
  });
});

const Registration pointwise([](Suite& suite) {
  suite.add("reference activations", [] {
    const Tensor x = tensor_of({4}, {1, -1, 0, 3});
    const auto run = [&](Activation a) { return oracle({4}, [&](Backend& b, Tensor& y) { b.activation(y, x, a); }); };
    check_values(run(Activation::None), {1, -1, 0, 3});
    check_values(run(Activation::Silu), {0.7310585786300049, -0.2689414213699951, 0, 2.8577223804673});
    check_values(run(Activation::Gelu), {0.8413447460685429, -0.15865525393145707, 0, 2.9959503057102973});
    check_values(run(Activation::GeluTanh), {0.8411919906082768, -0.15880800939172324, 0, 2.9963625923});
    const Tensor up = tensor_of({4}, {2, 3, 4, -1});
    check_values(oracle({4}, [&](Backend& b, Tensor& y) { b.gated_activation(y, x, up, Activation::Silu); }),
                 {1.4621171572600098, -0.8068242641099853, 0, -2.8577223804673});
    check_values(oracle({4}, [&](Backend& b, Tensor& y) { b.axpby(y, 2, x, -0.5f, up); }), {1, -3.5, -2, 6.5});
  });
  suite.add("reference resample", [] {
    const Tensor x = tensor_of({1, 2, 2, 1}, {1, 2, 3, 6});
    check_values(oracle({1, 4, 4, 1}, [&](Backend& b, Tensor& y) { b.resample(y, x, Resample::NearestUp2); }),
                 {1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 6, 6, 3, 3, 6, 6});
    check_values(oracle({1, 1, 1, 1}, [&](Backend& b, Tensor& y) { b.resample(y, x, Resample::AverageDown2); }), {3});
    check_values(oracle({1, 3, 3, 1}, [&](Backend& b, Tensor& y) { b.bilinear(y, x); }),
                 {1, 1.5, 2, 2, 3, 4, 3, 4.5, 6});
    check_values(oracle({1, 1, 4, 1}, [&](Backend& b, Tensor& y) { b.bilinear(y, x); }), {1, 4.0 / 3, 5.0 / 3, 2});
  });
  suite.add("reference layouts", [] {
    const Tensor x = tensor_of({1, 2, 1, 3}, {1, 2, 3, 4, 5, 6});
    check_values(oracle({1, 1, 3, 2}, [&](Backend& b, Tensor& y) { b.nchw_to_nhwc(y, x); }), {1, 4, 2, 5, 3, 6});
    check_values(oracle({1, 3, 1, 2}, [&](Backend& b, Tensor& y) { b.nhwc_to_nchw(y, x); }), {1, 4, 2, 5, 3, 6});
  });
  suite.add("reference embeddings", [] {
    const Tensor table = tensor_of({3, 2}, {1, 2, 3, 4, 5, 6});
    check_values(oracle({3, 2}, [&](Backend& b, Tensor& y) { b.embedding(y, ints({3}, {2, 0, 2}), table); }),
                 {5, 6, 1, 2, 5, 6});
    const Tensor t = tensor_of({1}, {100});  // frequencies 1 and 1/100
    const auto embed = [&](int64_t dim, bool flip, float shift) {
      return oracle({1, dim}, [&](Backend& b, Tensor& y) { b.timestep_embedding(y, t, flip, shift); });
    };
    check_values(embed(4, false, 0), {std::sin(100.0), std::sin(1.0), std::cos(100.0), std::cos(1.0)});
    check_values(embed(5, true, 0), {std::cos(100.0), std::cos(1.0), std::sin(100.0), std::sin(1.0), 0});
    check_values(embed(4, false, 1), {std::sin(100.0), std::sin(0.01), std::cos(100.0), std::cos(0.01)});
    const Tensor x = tensor_of({1, 2, 2}, {1, 2, 3, 8});
    check_values(
        oracle({1, 3, 2}, [&](Backend& b, Tensor& y) { b.prepend_mean_token(y, x, tensor_of({2}, {10, 20})); }),
        {12, 25, 1, 2, 3, 8});
  });
  suite.add("reference relative_position_bias", [] {
    // 32 buckets, maximum 128: 16 per side, eight of them single, the others from ceil(8 * 16^(k/8)) on
    std::vector<double> index(32);
    for (size_t i = 0; i < 32; i++) index[i] = double(i);
    const Tensor y = oracle(
        {1, 200, 200}, [&](Backend& b, Tensor& out) { b.relative_position_bias(out, tensor_of({32, 1}, index), 128); });
    const int64_t first[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91};
    for (int64_t distance = 0; distance < 200; distance++) {
      int64_t bucket = 0;
      while (bucket < 15 && first[bucket + 1] <= distance) bucket++;
      CHECK(y.data<float>()[distance * 200] == float(bucket));                        // key before the query
      CHECK(y.data<float>()[distance] == float(distance ? 16 + bucket : 0));          // key after it
    }
  });
});

const Registration sampler([](Suite& suite) {
  suite.add("reference ddpm_step by hand", [] {
    DdpmStep p;
    p.sample_scale = 2;
    p.output_scale = -1;
    p.x0_coef = 0.5f;
    p.x_coef = 0.25f;
    const Tensor x = tensor_of({1, 1, 2, 1}, {1, -2}), model = tensor_of({1, 1, 2, 1}, {1, 1}),
                 noise = tensor_of({1, 1, 2, 1}, {1, -1});
    Tensor x0;
    const auto run = [&](const Tensor& m) {
      return oracle(x.shape(), [&](Backend& b, Tensor& y) {
        x0 = Tensor::empty(x.shape(), DType::F32, kCpu);
        b.ddpm_step(y, x0, x, m, noise, p);
      });
    };
    check_values(run(model), {0.75, -3});  // x0 = 1, -5
    check_values(x0, {1, -5});
    p.threshold = DdpmStep::Threshold::Clip;
    p.clip_range = 2;
    check_values(run(model), {0.75, -1.5});
    p.threshold = DdpmStep::Threshold::Dynamic;
    p.ratio = 0.25f;  // quantile of {1, 5}: 2
    p.max_value = 10;
    check_values(run(model), {0.5, -1});
    check_values(x0, {0.5, -1});
    p.max_value = 1.25f;
    run(model);
    check_values(x0, {0.8, -1});
    p.threshold = DdpmStep::Threshold::None;
    p.add_noise = true;
    p.sigma = 4;
    check_values(run(model), {4.75, -7});
    // guidance 3 on (uncond 1, text 2) = 4; variance channel of the text half: 0 → middle of the logs
    p.guidance = 3;
    p.variance = DdpmStep::Variance::LearnedRange;
    p.min_log = 0;
    p.max_log = 4;
    const double e = std::exp(1.0);
    check_values(run(tensor_of({2, 1, 2, 2}, {1, 9, 1, 9, 2, 0, 2, -1})), {-0.75 + e, -4.5 - 1});
    p.variance = DdpmStep::Variance::Learned;
    check_values(run(tensor_of({2, 1, 2, 2}, {1, 9, 1, 9, 2, 4, 2, 9})), {-0.75 + 2, -4.5 - 3});
  });

  // Trajectories of diffusers' DDPMScheduler; coefficients from the recorded table as in scheduling_ddpm.py (step).
  for (const char* name :
       {"ddpm_learned_range_thr15", "ddpm_learned_range_thr1", "ddpm_super27", "ddpm_fixed_small", "ddpm_v_prediction"})
    suite.add(std::string("reference ddpm_step ") + name, [name] {
      const auto member = [](const Json& object, const char* key) -> const Json& {
        const Json* value = object.find(key);
        if (!value) fail_case("cases.json: no %s", key);
        return *value;
      };
      const Json cases = golden_json("schedulers/cases.json");
      const Json &info = member(cases, name), &config = member(info, "config");
      const auto file = golden(std::string("schedulers/") + name);
      const Tensor table = golden("schedulers/tables")->tensor("alphas_cumprod");
      TorchGenerator generator(9);
      const auto& timesteps = member(info, "timesteps").items();
      for (size_t i = 0; i < timesteps.size(); i++) {
        const auto alpha = [&](size_t k) {
          return k < timesteps.size() ? double(table.data<float>()[size_t(timesteps[k].number())]) : 1.0;
        };
        const double a = alpha(i), previous = alpha(i + 1), current = a / previous, beta = 1 - current;
        DdpmStep p;
        const bool v = member(config, "prediction_type").string() == "v_prediction";
        p.sample_scale = float(v ? std::sqrt(a) : 1 / std::sqrt(a));
        p.output_scale = float(v ? -std::sqrt(1 - a) : -std::sqrt((1 - a) / a));
        p.threshold =
            member(config, "thresholding").boolean() ? DdpmStep::Threshold::Dynamic : DdpmStep::Threshold::Clip;
        p.ratio = float(member(config, "dynamic_thresholding_ratio").number());
        p.max_value = float(member(config, "sample_max_value").number());
        p.x0_coef = float(std::sqrt(previous) * beta / (1 - a));
        p.x_coef = float(std::sqrt(current) * (1 - previous) / (1 - a));
        const double variance = std::max((1 - previous) / (1 - a) * beta, 1e-20);
        p.add_noise = timesteps[i].number() > 0;
        p.sigma = float(std::sqrt(variance));
        p.min_log = float(std::log(variance));
        p.max_log = float(std::log(beta));
        if (member(config, "variance_type").string() == "learned_range") p.variance = DdpmStep::Variance::LearnedRange;

        const auto image = [&](const Tensor& t) {
          return oracle({t.dim(0), t.dim(2), t.dim(3), t.dim(1)}, [&](Backend& b, Tensor& y) { b.nchw_to_nhwc(y, t); });
        };
        const Tensor x = image(file->tensor(format("x%zu", i))),
                     model = image(file->tensor(format("model_output%zu", i)));
        const Tensor want = file->tensor(format("x%zu", i + 1));
        Tensor drawn = Tensor::empty(want.shape(), DType::F32, kCpu);
        if (p.add_noise) generator.normal(drawn.data<float>(), drawn.numel());
        const Tensor noise = p.add_noise ? image(drawn) : Tensor();
        Tensor none;
        const Tensor prev = oracle(x.shape(), [&](Backend& b, Tensor& y) { b.ddpm_step(y, none, x, model, noise, p); });
        const Tensor got = oracle(want.shape(), [&](Backend& b, Tensor& y) { b.nhwc_to_nchw(y, prev); });
        const std::string error =
            mismatch(got, {want, std::vector<double>(size_t(want.numel()), 2e-5)});  // golden/README.md
        if (!error.empty()) fail_case("step %zu: %s", i, error.c_str());
      }
    });
});

}  // namespace
}  // namespace df::test
