// What the ops refuse, and how: INVALID_ARGUMENT with the op, the parameter, what was expected and what came.
#include <atomic>

#include "core/execution.h"
#include "compare.h"
#include "harness.h"
#include "ops/backend.h"
#include "ops/ops.h"
#include "tensors.h"

namespace df::test {
namespace {

Tensor zeros(const Shape& shape, DType dtype = DType::F32, Device device = kCpu) {
  return Tensor::zeros(shape, dtype, device);
}

void refuse(const std::string& part, const std::function<void()>& body) {
  expect_error(ErrorCode::InvalidArgument, part, body);
}

const Registration refusals([](Suite& suite) {
  constexpr DType kF32 = DType::F32, kBf16 = DType::BF16, kF16 = DType::F16, kI32 = DType::I32;

  suite.add("refusals pack and unpack", [] {
    refuse("pack: plain must be f32 or bf16 or f16, got i32", [] { ops::pack(zeros({2, 3}, kI32), kF32); });
    refuse("pack: plain must be (out, in) or (out, kernel_h, kernel_w, in), got (2, 3, 3)",
           [] { ops::pack(zeros({2, 3, 3}), kF32); });
    refuse("pack: dtype must be f32 or bf16, got f16", [] { ops::pack(zeros({2, 3}), kF16); });
    refuse("pack: plain must be a tensor, got an undefined one", [] { ops::pack({}, kF32); });
    refuse("pack: plain must not be empty, got (0, 3)", [] { ops::pack(zeros({0, 3}), kF32); });
    refuse("unpack: weight must be packed", [] { ops::unpack({}, kF32); });
    refuse("unpack: dtype must be f32 or bf16 or f16, got i32",
           [] { ops::unpack(ops::pack(zeros({2, 3}), kF32), kI32); });
  });
  suite.add("refusals linear", [] {
    const Weight w = ops::pack(zeros({4, 3}), kF32);
    const Tensor x = zeros({5, 3});
    refuse("linear: x must be f32 or bf16, got f16", [=] { ops::linear(zeros({5, 3}, kF16), w); });
    refuse("linear: weight must be packed for bf16, got f32", [=] { ops::linear(zeros({5, 3}, kBf16), w); });
    refuse("linear: x must have 3 channels as its weight, got (5, 4)", [=] { ops::linear(zeros({5, 4}), w); });
    refuse("linear: weight must be packed, got an undefined one", [=] { ops::linear(x, {}); });
    refuse("linear: weight must be 1×1, got 3×3", [=] { ops::linear(x, ops::pack(zeros({4, 3, 3, 3}), kF32)); });
    refuse("linear: weight must be on cpu:0, got meta:0",
           [=] { ops::linear(x, ops::pack(zeros({4, 3}, kF32, kMeta), kF32)); });
    refuse("linear: bias must have shape (4,), got (3,)", [=] { ops::linear(x, w, {zeros({3}), {}, 1}); });
    refuse("linear: bias must be f32, got bf16", [=] { ops::linear(x, w, {zeros({4}, kBf16), {}, 1}); });
    refuse("linear: residual must have shape (5, 4), got (5, 3)", [=] { ops::linear(x, w, {{}, zeros({5, 3}), 1}); });
    refuse("linear: residual must be f32, got bf16", [=] { ops::linear(x, w, {{}, zeros({5, 4}, kBf16), 1}); });
    refuse("linear: into must have shape (5, 4), got (4, 4)", [=] { ops::linear(x, w, {}, zeros({4, 4})); });
    refuse("linear: into must be f32, got bf16", [=] { ops::linear(x, w, {}, zeros({5, 4}, kBf16)); });
    refuse("linear: into must be on cpu:0, got meta:0", [=] { ops::linear(x, w, {}, zeros({5, 4}, kF32, kMeta)); });
  });
  suite.add("refusals conv2d", [] {
    const Weight w = ops::pack(zeros({4, 3, 3, 2}), kF32);
    refuse("conv2d: x must have 4 dimensions, got (5, 2)", [=] { ops::conv2d(zeros({5, 2}), w, {1, 1}); });
    refuse("conv2d: x must have 2 channels as its weight, got (1, 5, 5, 3)",
           [=] { ops::conv2d(zeros({1, 5, 5, 3}), w, {1, 1}); });
    refuse("conv2d: stride must be at least 1, got 0", [=] { ops::conv2d(zeros({1, 5, 5, 2}), w, {0, 1}); });
    refuse("conv2d: padding must not be negative, got -1", [=] { ops::conv2d(zeros({1, 5, 5, 2}), w, {1, -1}); });
    refuse("conv2d: x with padding 0 must be at least 3×3 pixels, got (1, 5, 2, 2)",
           [=] { ops::conv2d(zeros({1, 5, 2, 2}), w, {1, 0}); });
    refuse("conv2d: residual must have shape (1, 5, 5, 4)",
           [=] { ops::conv2d(zeros({1, 5, 5, 2}), w, {1, 1}, {{}, zeros({1, 5, 4, 4}), 1}); });
    refuse("conv2d: into must have shape (1, 3, 3, 4)",
           [=] { ops::conv2d(zeros({1, 5, 5, 2}), w, {2, 1}, {}, zeros({1, 5, 5, 4})); });
  });
  suite.add("refusals attention", [] {
    const Tensor q = zeros({2, 3, 8});
    const auto params = [](int heads, std::vector<KeyValue> segments) {
      AttentionParams p;
      p.heads = heads;
      p.segments = std::move(segments);
      return p;
    };
    const KeyValue kv{zeros({2, 5, 8}), zeros({2, 5, 8})};
    refuse("attention: q must have 3 dimensions", [=] { ops::attention(zeros({3, 8}), params(2, {kv})); });
    refuse("attention: channels must be a multiple of 3 heads, got 8", [=] { ops::attention(q, params(3, {kv})); });
    refuse("attention: channels must be a multiple of 0 heads", [=] { ops::attention(q, params(0, {kv})); });
    refuse("attention: segments must be one or two, got 0", [=] { ops::attention(q, params(2, {})); });
    refuse("attention: segments must be one or two, got 3", [=] { ops::attention(q, params(2, {kv, kv, kv})); });
    refuse("attention: key must have shape (2, 5, 8), got (1, 5, 8)",
           [=] { ops::attention(q, params(2, {{zeros({1, 5, 8}), kv.value}})); });
    refuse("attention: value must have shape (2, 5, 8), got (2, 4, 8)",
           [=] { ops::attention(q, params(2, {{kv.key, zeros({2, 4, 8})}})); });
    refuse("attention: key must be f32, got bf16",
           [=] { ops::attention(q, params(2, {{zeros({2, 5, 8}, kBf16), kv.value}})); });
    AttentionParams p = params(2, {kv});
    p.bias = zeros({2, 3, 4});
    refuse("attention: bias must have shape (2, 3, 5), got (2, 3, 4)", [=] { ops::attention(q, p); });
    p.bias = {};
    p.mask = zeros({2, 5});
    refuse("attention: mask must be i32, got f32", [=] { ops::attention(q, p); });
    p.mask = zeros({2, 5}, kI32);
    refuse("attention: mask must keep at least one key of every item, got none for item 0",
           [=] { ops::attention(q, p); });
  });
  suite.add("refusals norms", [] {
    GroupNormParams p;
    p.gamma = zeros({48});
    p.beta = zeros({48});
    refuse("group_norm: channels must be a multiple of 32 groups, got 48",
           [=] { ops::group_norm(zeros({1, 2, 2, 48}), p); });
    refuse("group_norm: x must be (items, …, channels), got (48,)", [=] { ops::group_norm(zeros({48}), p); });
    p.groups = 4;
    const Tensor x = zeros({2, 3, 48});
    refuse("group_norm: into must have shape (2, 3, 48)", [=] { ops::group_norm(x, p, zeros({2, 3, 47})); });
    p.eps = 0;
    refuse("group_norm: eps must be positive, got 0", [=] { ops::group_norm(x, p); });
    p.eps = 1e-5f;
    p.scale = zeros({2, 48});
    refuse("group_norm: scale and shift must be given both or not at all, got scale only",
           [=] { ops::group_norm(x, p); });
    p.shift = zeros({1, 48});
    refuse("group_norm: shift must have shape (2, 48), got (1, 48)", [=] { ops::group_norm(x, p); });
    p.shift = zeros({2, 48}, kBf16);
    refuse("group_norm: shift must be f32, got bf16", [=] { ops::group_norm(x, p); });
    p.beta = {};
    refuse("group_norm: beta must be a tensor of (48,), got an undefined one", [=] { ops::group_norm(x, p); });
    refuse("layer_norm: gamma must have shape (48,), got (47,)",
           [=] { ops::layer_norm(x, zeros({47}), zeros({48}), 1e-5f); });
    refuse("layer_norm: beta must be f32, got bf16",
           [=] { ops::layer_norm(x, zeros({48}), zeros({48}, kBf16), 1e-5f); });
    refuse("layer_norm: eps must be positive", [=] { ops::layer_norm(x, zeros({48}), zeros({48}), -1); });
    refuse("rms_norm: gamma must be on cpu:0, got meta:0", [=] { ops::rms_norm(x, zeros({48}, kF32, kMeta), 1e-6f); });
    refuse("rms_norm: x must be f32 or bf16, got i32",
           [=] { ops::rms_norm(zeros({2, 48}, kI32), zeros({48}), 1e-6f); });
    refuse("rms_norm: eps must be positive", [=] { ops::rms_norm(x, zeros({48}), 0); });
  });
  suite.add("refusals elementwise", [] {
    const Tensor x = zeros({2, 3});
    refuse("activation: x must be f32 or bf16, got f16",
           [] { ops::activation(zeros({2, 3}, kF16), Activation::Silu); });
    refuse("activation: x must have at least one dimension", [] { ops::activation(zeros({}), Activation::Silu); });
    refuse("gated_activation: up must have shape (2, 3), got (3, 2)",
           [=] { ops::gated_activation(x, zeros({3, 2}), Activation::Silu); });
    refuse("gated_activation: up must be f32, got bf16",
           [=] { ops::gated_activation(x, zeros({2, 3}, kBf16), Activation::Silu); });
    refuse("axpby: z must have shape (2, 3), got (2, 4)", [=] { ops::axpby(1, x, 1, zeros({2, 4})); });
    refuse("axpby: z must be f32 or bf16, got i32", [=] { ops::axpby(1, x, 1, zeros({2, 3}, kI32)); });
    refuse("axpby: z must be on cpu:0, got meta:0", [=] { ops::axpby(1, x, 1, zeros({2, 3}, kF32, kMeta)); });
    refuse("copy: dtype must be f32 or bf16 or f16, got i64", [=] { ops::copy(x, DType::I64); });
    refuse("copy: into must be bf16, got f32", [=] { ops::copy(x, kBf16, zeros({2, 3})); });
    refuse("copy: into must have shape (2, 3), got (3, 2)", [=] { ops::copy(x, kF32, zeros({3, 2})); });
    refuse("all_finite: x must be f32 or bf16 or f16, got u8", [] { ops::all_finite(zeros({2}, DType::U8)); });
    refuse("to_device: x must be on a device with data, got meta:0",
           [] { ops::to_device(zeros({2, 3}, kF32, kMeta), kCpu); });
    expect_error(ErrorCode::NotBuilt, "cuda:63 cannot be used: ", [=] { ops::to_device(x, {DeviceType::Cuda, 63}); });
  });
  suite.add("refusals resample", [] {
    refuse("resample: height and width must be even, got (1, 4, 5, 2)",
           [] { ops::resample(zeros({1, 4, 5, 2}), Resample::AverageDown2); });
    refuse("resample: x must have 4 dimensions", [] { ops::resample(zeros({4, 4, 2}), Resample::NearestUp2); });
    refuse("resample: into must have shape (1, 8, 8, 2)",
           [] { ops::resample(zeros({1, 4, 4, 2}), Resample::NearestUp2, zeros({1, 2, 2, 2})); });
    refuse("bilinear: height and width must be at least 1, got 0 and 4",
           [] { ops::bilinear(zeros({1, 4, 4, 2}), 0, 4); });
    refuse("nchw_to_nhwc: x must be f32, got bf16", [] { ops::nchw_to_nhwc(zeros({1, 4, 4, 2}, kBf16), kF32); });
    refuse("nchw_to_nhwc: dtype must be f32 or bf16, got f16", [] { ops::nchw_to_nhwc(zeros({1, 4, 4, 2}), kF16); });
    refuse("nchw_to_nhwc: x must be contiguous", [] { ops::nchw_to_nhwc(zeros({1, 4, 4, 2}).slice_last(0, 1), kF32); });
    refuse("nhwc_to_nchw: x must have 4 dimensions", [] { ops::nhwc_to_nchw(zeros({4, 4, 2})); });
  });
  suite.add("refusals embeddings", [] {
    const Tensor table = zeros({5, 3});
    refuse("embedding: ids must be in [0, 5), got 5 at position 2",
           [=] { ops::embedding(ints({2, 2}, {0, 4, 5, -1}), table); });
    refuse("embedding: ids must be in [0, 5), got -1 at position 0", [=] { ops::embedding(ints({1}, {-1}), table); });
    refuse("embedding: ids must be i32, got f32", [=] { ops::embedding(zeros({2}), table); });
    refuse("embedding: table must have 2 dimensions", [] { ops::embedding(ints({1}, {0}), zeros({5})); });
    refuse("embedding: table must be on cpu:0, got meta:0",
           [] { ops::embedding(ints({1}, {0}), zeros({5, 3}, kF32, kMeta)); });
    refuse("timestep_embedding: t must be f32, got i32", [] { ops::timestep_embedding(ints({1}, {5}), 8, true, 0); });
    refuse("timestep_embedding: dim must be at least 2, got 1",
           [] { ops::timestep_embedding(zeros({1}), 1, true, 0); });
    refuse("timestep_embedding: freq_shift must be less than dim / 2 = 1, got 1",
           [] { ops::timestep_embedding(zeros({1}), 2, true, 1); });
    refuse("prepend_mean_token: position must have shape (3,), got (4,)",
           [] { ops::prepend_mean_token(zeros({1, 2, 3}), zeros({4})); });
    refuse("relative_position_bias: buckets must be a multiple of 4, got 30",
           [] { ops::relative_position_bias(zeros({30, 2}), 7, 128); });
    refuse("relative_position_bias: max_distance must be more than 8, got 8",
           [] { ops::relative_position_bias(zeros({32, 2}), 7, 8); });
    refuse("relative_position_bias: tokens must be at least 1, got 0",
           [] { ops::relative_position_bias(zeros({32, 2}), 0, 128); });
  });
  suite.add("refusals ddpm_step", [] {
    const Tensor x = zeros({2, 4, 4, 3}), model = zeros({2, 4, 4, 6});
    DdpmStep p;
    refuse("ddpm_step: x must be f32, got bf16",
           [=] { ops::ddpm_step(zeros({2, 4, 4, 3}, kBf16), model, {}, p, false); });
    refuse("ddpm_step: model must have 2 or 4 items, got (3, 4, 4, 6)",
           [=] { ops::ddpm_step(x, zeros({3, 4, 4, 6}), {}, p, false); });
    refuse("ddpm_step: model must have 6 channels", [=] { ops::ddpm_step(x, zeros({2, 4, 4, 4}), {}, p, false); });
    refuse("ddpm_step: model must have shape (2, 4, 4, 6), got (2, 4, 5, 6)",
           [=] { ops::ddpm_step(x, zeros({2, 4, 5, 6}), {}, p, false); });
    p.add_noise = true;
    refuse("ddpm_step: noise must be a tensor of (2, 4, 4, 3), got an undefined one",
           [=] { ops::ddpm_step(x, model, {}, p, false); });
    refuse("ddpm_step: noise must have shape (2, 4, 4, 3)",
           [=] { ops::ddpm_step(x, model, zeros({2, 4, 4, 1}), p, false); });
    p.add_noise = false;
    p.variance = DdpmStep::Variance::LearnedRange;
    refuse("ddpm_step: model must have 6 channels", [=] { ops::ddpm_step(x, zeros({2, 4, 4, 3}), {}, p, false); });
    p.threshold = DdpmStep::Threshold::Dynamic;
    p.ratio = 1.5f;
    refuse("ddpm_step: ratio must be in [0, 1], got 1.5", [=] { ops::ddpm_step(x, model, {}, p, false); });
  });
  suite.add("refusals of a cancelled execution", [] {
    std::atomic<bool> cancelled{true};
    Execution execution;
    execution.cancelled = &cancelled;
    ExecutionScope scope(execution);
    const auto stopped = [](const std::function<void()>& body) {
      expect_error(ErrorCode::Cancelled, "cancelled", body);
    };
    const Tensor x = zeros({1, 2, 2, 32}), v = zeros({32});
    GroupNormParams norm;
    norm.gamma = norm.beta = v;
    stopped([=] { ops::pack(zeros({2, 3}), kF32); });
    stopped([=] { ops::group_norm(x, norm); });
    stopped([=] { ops::layer_norm(x, v, v, 1); });
    stopped([=] { ops::rms_norm(x, v, 1); });
    stopped([=] { ops::activation(x, Activation::Silu); });
    stopped([=] { ops::gated_activation(x, x, Activation::Silu); });
    stopped([=] { ops::axpby(1, x, 1, x); });
    stopped([=] { ops::copy(x, kBf16); });
    stopped([=] { ops::all_finite(x); });
    stopped([=] { ops::to_device(x, kMeta); });
    stopped([=] { ops::resample(x, Resample::NearestUp2); });
    stopped([=] { ops::bilinear(x, 4, 4); });
    stopped([=] { ops::nchw_to_nhwc(x, kF32); });
    stopped([=] { ops::nhwc_to_nchw(x); });
    stopped([=] { ops::embedding(ints({1}, {0}), zeros({2, 3})); });
    stopped([=] { ops::timestep_embedding(v, 8, true, 0); });
    stopped([=] { ops::prepend_mean_token(zeros({1, 2, 32}), v); });
    stopped([=] { ops::relative_position_bias(zeros({32, 2}), 4, 128); });
    stopped([=] { ops::ddpm_step(x, x, {}, {}, false); });
    AttentionParams attention;
    attention.segments = {{zeros({1, 2, 32}), zeros({1, 2, 32})}};
    stopped([=] { ops::attention(zeros({1, 2, 32}), attention); });
    cancelled = false;
    const Weight w = ops::pack(zeros({4, 32}), kF32);
    cancelled = true;
    stopped([=] { ops::unpack(w, kF32); });
    stopped([=] { ops::linear(x, w); });
    stopped([=] { ops::conv2d(x, w, {1, 0}); });
  });
  suite.add("refusals of devices and instruction sets that are not there", [] {
    expect_error(ErrorCode::NotBuilt, "cuda:63 cannot be used: ", [] { backend_for({DeviceType::Cuda, 63}); });
    refuse("sse9", [] { cpu_backend("sse9"); });
    for (const CpuIsa& isa : cpu_isas())
      if (!isa.supported) expect_error(ErrorCode::NotBuilt, isa.name, [=] { cpu_backend(isa.name); });
  });
});

// `into` may be a slice of a wider buffer; what lies beside it stays.
const Registration slices([](Suite& suite) {
  suite.add("ops write into slices of a concatenation", [] {
    for (DType dtype : {DType::F32, DType::BF16}) {
      Random random("slices");
      const Tensor x = random_tensor(random, {2, 4, 4, 32}, dtype, Layout::Dense);
      const Weight w = ops::pack(random_tensor(random, {20, 3, 3, 32}, dtype, Layout::Dense), dtype);
      const Weight w1 = ops::pack(random_tensor(random, {20, 32}, dtype, Layout::Dense), dtype);
      GroupNormParams norm;
      norm.gamma = random_tensor(random, {32}, DType::F32, Layout::Dense);
      norm.beta = random_tensor(random, {32}, DType::F32, Layout::Dense);
      const auto check = [&](const Tensor& want, const std::function<Tensor(Tensor)>& op) {
        Shape wide = want.shape();
        wide.set(-1, want.dim(-1) + 30);
        const Tensor buffer = Tensor::zeros(wide, dtype, kCpu), slice = buffer.slice_last(13, want.dim(-1));
        CHECK(op(slice).raw() == slice.raw());
        CHECK(different_bits(slice, want).empty());
        CHECK(different_bits(buffer.slice_last(0, 13), Tensor::zeros(buffer.slice_last(0, 13).shape(), dtype, kCpu))
                  .empty());
        const Tensor rest = buffer.slice_last(13 + want.dim(-1), 17);
        CHECK(different_bits(rest, Tensor::zeros(rest.shape(), dtype, kCpu)).empty());
      };
      check(ops::conv2d(x, w, {1, 1}), [&](Tensor into) { return ops::conv2d(x, w, {1, 1}, {}, into); });
      check(ops::linear(x, w1), [&](Tensor into) { return ops::linear(x, w1, {}, into); });
      check(ops::group_norm(x, norm), [&](Tensor into) { return ops::group_norm(x, norm, into); });
      check(ops::resample(x, Resample::NearestUp2),
            [&](Tensor into) { return ops::resample(x, Resample::NearestUp2, into); });
      check(ops::copy(x, dtype), [&](Tensor into) { return ops::copy(x, dtype, into); });
    }
  });
  suite.add("ops move tensors to other devices", [] {
    const Tensor x = tensor_of({2, 3}, {0, 1, 2, 3, 4, 5}), view = x.slice_last(1, 2);
    const Tensor copy = ops::to_device(view, {DeviceType::Cpu, 1});
    CHECK(copy.device() == (Device{DeviceType::Cpu, 1}) && copy.contiguous() && different_bits(copy, view).empty());
    CHECK(different_bits(ops::to_device(x, kCpu), x).empty() && ops::to_device(x, kCpu).raw() != x.raw());
    const Tensor ids = ints({3}, {7, 8, 9}), moved = ops::to_device(ids, kMeta);
    CHECK(moved.dtype() == DType::I32 && moved.shape() == ids.shape() && moved.device() == kMeta && !moved.raw());
  });
  suite.add("meta weights have the bytes of the cpu backend", [] {
    for (const Shape& shape : {Shape{17, 33}, Shape{65, 3, 3, 34}})
      for (DType dtype : {DType::F32, DType::BF16}) {
        const Weight cpu = ops::pack(zeros(shape), dtype), meta = ops::pack(zeros(shape, DType::F32, kMeta), dtype);
        CHECK(meta.data.bytes() == cpu.data.bytes() && meta.data.device() == kMeta);
        CHECK(meta.out == cpu.out && meta.in == cpu.in && meta.kernel_h == cpu.kernel_h && meta.dtype == dtype);
        CHECK(ops::unpack(meta, DType::F32).shape() == ops::unpack(cpu, DType::F32).shape());
      }
  });
});

}  // namespace
}  // namespace df::test
