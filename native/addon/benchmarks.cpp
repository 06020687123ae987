// Timings of single ops, measured on the queue's thread without any JavaScript in between.
#include <chrono>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/handles.h"
#include "io/state_source.h"
#include "ops/ops.h"

namespace df::addon {
namespace {

// Normal values, the same in every run.
Tensor random_tensor(const Shape& shape, DType dtype, float scale, uint64_t seed) {
  Tensor t = Tensor::empty(shape, DType::F32, kCpu);
  TorchGenerator(seed).normal(t.data<float>(), t.numel());
  return ops::copy(ops::axpby(scale, t, 0, t), dtype);
}

template <class F> std::vector<double> time_runs(F run, int64_t runs) {
  run();
  std::vector<double> seconds;
  for (int64_t i = 0; i < runs; i++) {
    const auto start = std::chrono::steady_clock::now();
    run();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return seconds;
}

Deliver deliver_seconds(std::vector<double> seconds) {
  return [seconds = std::move(seconds)](Napi::Env env) -> Napi::Value {
    auto a = Napi::Array::New(env);
    for (uint32_t i = 0; i < seconds.size(); i++) a.Set(i, seconds[i]);
    return a;
  };
}

// benchLinear(m, n, k, dtype, runs): Promise<number[]> seconds of x (m, k) · wᵀ (n, k)
Napi::Value bench_linear(const Napi::CallbackInfo& info) {
  const int64_t m = read_integer(info[0], "m", 1, 1 << 20), n = read_integer(info[1], "n", 1, 1 << 20),
                k = read_integer(info[2], "k", 1, 1 << 20), runs = read_integer(info[4], "runs", 1, 1000);
  const DType dtype = read_dtype(info[3], "dtype");
  return run_command(info.Env(), kCpu, nullptr, [=]() -> Deliver {
    const Tensor x = random_tensor({m, k}, dtype, 1, 1);
    const Weight w = ops::pack(random_tensor({n, k}, DType::F32, 0.02f, 2), dtype);
    const Tensor y = Tensor::empty({m, n}, dtype, kCpu);
    return deliver_seconds(time_runs([&] { ops::linear(x, w, {}, y); }, runs));
  });
}

// benchConv(batch, size, in, out, dtype, runs): Promise<number[]> seconds of a 3×3 convolution, stride 1, padding 1
Napi::Value bench_conv(const Napi::CallbackInfo& info) {
  const int64_t batch = read_integer(info[0], "batch", 1, 1 << 10), size = read_integer(info[1], "size", 1, 1 << 12),
                in = read_integer(info[2], "in", 1, 1 << 16), out = read_integer(info[3], "out", 1, 1 << 16),
                runs = read_integer(info[5], "runs", 1, 1000);
  const DType dtype = read_dtype(info[4], "dtype");
  return run_command(info.Env(), kCpu, nullptr, [=]() -> Deliver {
    const Tensor x = random_tensor({batch, size, size, in}, dtype, 1, 1);
    const Weight w = ops::pack(random_tensor({out, 3, 3, in}, DType::F32, 0.02f, 2), dtype);
    const Tensor y = Tensor::empty({batch, size, size, out}, dtype, kCpu);
    return deliver_seconds(time_runs([&] { ops::conv2d(x, w, {.stride = 1, .padding = 1}, {}, y); }, runs));
  });
}

}  // namespace

void bind_benchmarks(Napi::Env env, Napi::Object exports) {
  bind<bench_linear>(env, exports, "benchLinear");
  bind<bench_conv>(env, exports, "benchConv");
}

}  // namespace df::addon
