// What the op cases do not have: the plain CUDA kernels in f16, and in views whose rows allow 16-byte accesses. All layouts
// give the bits of unaligned views, and those are within the arithmetic's error of the oracle.
#include "cuda/emulation/backend.h"
#include "cpu/reference/reference_backend.h"
#include "op_case.h"

namespace df::test {
namespace {

constexpr int64_t kItems = 2, kHeight = 4, kWidth = 6, kChannels = 24;

struct FormatCase {
  const char* name;
  Shape shape;                ///< of the result
  std::vector<Shape> inputs;  ///< activations, of the dtype of the case
  std::function<void(Backend&, Tensor& y, const std::vector<Tensor>& in)> run;
  double size;  ///< the largest value on the way: the tolerance is 16 roundings of it
};

std::vector<FormatCase> format_cases() {
  const Shape image{kItems, kHeight, kWidth, kChannels}, large{kItems, 2 * kHeight, 2 * kWidth, kChannels},
      small{kItems, kHeight / 2, kWidth / 2, kChannels}, tokens{kItems, 5, kChannels}, more{kItems, 6, kChannels};
  std::vector<FormatCase> cases;
  for (Activation kind : {Activation::Silu, Activation::Gelu, Activation::GeluTanh}) {
    cases.push_back({"activation", image, {image}, [=](Backend& b, Tensor& y, const auto& in) { b.activation(y, in[0], kind); }, 4});
    cases.push_back({"gated_activation", image, {image, image},
                     [=](Backend& b, Tensor& y, const auto& in) { b.gated_activation(y, in[0], in[1], kind); }, 16});
    cases.push_back({"activation_backward", image, {image, image},
                     [=](Backend& b, Tensor& y, const auto& in) { b.activation_backward({y, true}, in[0], in[1], kind); }, 8});
    cases.push_back({"gated_activation_backward", image, {image, image, image},
                     [=](Backend& b, Tensor& y, const auto& in) {
                       b.gated_activation_backward({y, false}, {}, in[0], in[1], in[2], kind);
                     }, 32});
    cases.push_back({"gated_activation_backward of up", image, {image, image, image},
                     [=](Backend& b, Tensor& y, const auto& in) {
                       b.gated_activation_backward({}, {y, true}, in[0], in[1], in[2], kind);
                     }, 32});
  }
  cases.push_back({"axpby", image, {image, image},
                   [](Backend& b, Tensor& y, const auto& in) { b.axpby(y, 0.7f, in[0], -1.3f, in[1]); }, 16});
  cases.push_back({"copy", image, {image}, [](Backend& b, Tensor& y, const auto& in) { b.copy(y, in[0]); }, 0});
  cases.push_back({"scale_backward", image, {image},
                   [](Backend& b, Tensor& y, const auto& in) { b.scale_backward({y, true}, -1.3f, in[0]); }, 16});
  cases.push_back({"resample up", large, {image},
                   [](Backend& b, Tensor& y, const auto& in) { b.resample(y, in[0], Resample::NearestUp2); }, 0});
  cases.push_back({"resample down", small, {image},
                   [](Backend& b, Tensor& y, const auto& in) { b.resample(y, in[0], Resample::AverageDown2); }, 16});
  cases.push_back({"resample_backward up", image, {large},
                   [](Backend& b, Tensor& y, const auto& in) { b.resample_backward({y, true}, in[0], Resample::NearestUp2); }, 16});
  cases.push_back({"resample_backward down", image, {small},
                   [](Backend& b, Tensor& y, const auto& in) { b.resample_backward({y, false}, in[0], Resample::AverageDown2); }, 4});
  cases.push_back({"bilinear", large, {image}, [](Backend& b, Tensor& y, const auto& in) { b.bilinear(y, in[0]); }, 64});
  cases.push_back({"embedding", tokens, {{7, kChannels}},
                   [](Backend& b, Tensor& y, const auto& in) {
                     b.embedding(y, ints({kItems, 5}, {3, 1, 6, 0, 0, 2, 6, 5, 3, 1}), in[0]);
                   }, 0});
  cases.push_back({"prepend_mean_token", more, {tokens},
                   [](Backend& b, Tensor& y, const auto& in) {
                     b.prepend_mean_token(y, in[0], tensor_of({kChannels}, std::vector<double>(kChannels, 0.5)));
                   }, 16});
  cases.push_back({"prepend_mean_token_backward", tokens, {more},
                   [](Backend& b, Tensor& y, const auto& in) { b.prepend_mean_token_backward({y, false}, {}, in[0]); }, 8});
  return cases;
}

void check(const FormatCase& c, DType dtype) {
  Random random(c.name);
  std::vector<Tensor> values;
  for (const Shape& shape : c.inputs) values.push_back(random_tensor(random, shape, dtype, Layout::Dense, -4, 4));
  const Tensor initial = random_tensor(random, c.shape, dtype, Layout::Dense);
  Tensor want = exact(initial), first;
  std::vector<Tensor> exact_values;
  for (const Tensor& v : values) exact_values.push_back(exact(v));
  c.run(reference_backend(), want, exact_values);
  for (Layout layout : {Layout::Strided, Layout::Aligned, Layout::Dense}) {
    const auto place = [&](const Tensor& v) {
      Tensor t = guarded(v.shape(), dtype, layout);
      reference_backend().copy(t, v);
      return t;
    };
    Tensor y = place(initial);
    std::vector<Tensor> in;
    for (const Tensor& v : values) in.push_back(place(v));
    c.run(emulated_cuda_backend(), y, in);
    check_guard(y, layout);
    std::string error = mismatch(y, {want, std::vector<double>(size_t(y.numel()), 16 * kFloat * c.size)});
    if (error.empty() && first.defined()) error = different_bits(first, y);
    if (!error.empty()) fail_case("%s:%s %s", c.name, layout_name(layout), error.c_str());
    if (!first.defined()) first = y;
  }
}

// The model's output in f16, as after an UNet in f16.
void check_sampler_step() {
  Random random("ddpm_step f16");
  const Shape shape{kItems, kHeight, kWidth, 3};
  const Tensor x = random_tensor(random, shape, DType::F32, Layout::Strided, -2, 2),
               noise = random_tensor(random, shape, DType::F32, Layout::Dense, -2, 2),
               model = random_tensor(random, {2 * kItems, kHeight, kWidth, 6}, DType::F16, Layout::Strided);
  DdpmStep p;
  p.sample_scale = 1.7f, p.output_scale = -1.3f, p.x0_coef = 0.31f, p.x_coef = 0.68f, p.guidance = 7;
  p.threshold = DdpmStep::Threshold::Dynamic, p.ratio = 0.95f, p.max_value = 1.5f;
  p.variance = DdpmStep::Variance::LearnedRange, p.min_log = -5.5f, p.max_log = -3.1f, p.add_noise = true;
  Tensor y = guarded(shape, DType::F32, Layout::Strided), none;
  emulated_cuda_backend().ddpm_step(y, none, x, model, noise, p);
  const Tensor want = oracle(shape, [&](Backend& b, Tensor& out) { b.ddpm_step(out, none, x, exact(model), noise, p); });
  // as in diffusion_test.cpp: five roundings of terms of up to 1.7·2 + 1.3·15, twice, and those of the deviation
  const std::string error = mismatch(y, {want, std::vector<double>(size_t(y.numel()), kFloat * (0.31 * 14 * 23 + 100))});
  if (!error.empty()) fail_case("%s", error.c_str());
}

const Registration formats([](Suite& suite) {
  for (DType dtype : {DType::F32, DType::BF16, DType::F16})
    suite.add(format("cuda formats %s", dtype_name(dtype)), [=] {
      for (const FormatCase& c : format_cases()) check(c, dtype);
    });
  suite.add("cuda formats ddpm_step f16", check_sampler_step);
});

}  // namespace
}  // namespace df::test
