// Timings of single ops, measured on the queue's thread without any JavaScript in between, and files of random weights.
#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/handles.h"
#include "bench/timing.h"
#include "core/execution.h"
#include "io/safetensors.h"
#include "io/state_source.h"

namespace df::addon {
namespace {

Deliver deliver_seconds(std::vector<double> seconds) {
  return [seconds = std::move(seconds)](Napi::Env env) -> Napi::Value {
    auto a = Napi::Array::New(env);
    for (uint32_t i = 0; i < seconds.size(); i++) a.Set(i, seconds[i]);
    return a;
  };
}

// benchLinear(m, n, k, dtype, int8Weights, runs, device): Promise<number[]> seconds of x (m, k) · wᵀ (n, k)
Napi::Value bench_linear(const Napi::CallbackInfo& info) {
  const int64_t m = read_integer(info[0], "m", 1, 1 << 20), n = read_integer(info[1], "n", 1, 1 << 20),
                k = read_integer(info[2], "k", 1, 1 << 20), runs = read_integer(info[5], "runs", 1, 1000);
  const DType dtype = read_dtype(info[3], "dtype");
  const bool int8_weights = read_boolean(info[4], "int8Weights");
  const Device device = read_device(info[6], "device");
  return run_command(info.Env(), device, nullptr,
                     [=] { return deliver_seconds(time_linear(m, n, k, dtype, int8_weights, runs, device).seconds); });
}

// benchConv(batch, size, in, out, dtype, precision, runs, device): Promise<number[]> seconds of a 3×3 convolution, padding 1
Napi::Value bench_conv(const Napi::CallbackInfo& info) {
  const int64_t batch = read_integer(info[0], "batch", 1, 1 << 10), size = read_integer(info[1], "size", 1, 1 << 12),
                in = read_integer(info[2], "in", 1, 1 << 16), out = read_integer(info[3], "out", 1, 1 << 16),
                runs = read_integer(info[6], "runs", 1, 1000);
  const DType dtype = read_dtype(info[4], "dtype");
  const Precision precision = read_precision(info[5], "precision");
  const Device device = read_device(info[7], "device");
  return run_command(info.Env(), device, nullptr, [=] {
    return deliver_seconds(time_conv(batch, size, in, out, dtype, precision, runs, device).seconds);
  });
}

// One file of a model: the tensors that it holds.
struct Shard {
  std::string file;
  std::vector<TensorInfo> tensors;
};

// In the order of the model, as many tensors per file as fit into `shard_bytes`, one at least; file names as diffusers
// and transformers write them (huggingface_hub serialization: "{prefix}-00001-of-00003.safetensors").
std::vector<Shard> split_into_shards(const std::vector<TensorInfo>& tensors, const std::string& prefix,
                                     int64_t shard_bytes) {
  std::vector<Shard> shards;
  int64_t bytes = 0;
  for (const TensorInfo& t : tensors) {
    const int64_t size = t.shape.numel() * int64_t(dtype_size(t.dtype));
    if (shards.empty() || bytes + size > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().tensors.push_back(t);
    bytes += size;
  }
  for (size_t i = 0; i < shards.size(); i++)
    shards[i].file = shards.size() == 1 ? prefix + ".safetensors"
                                        : format("%s-%05zu-of-%05zu.safetensors", prefix.c_str(), i + 1, shards.size());
  return shards;
}

// writeRandomWeights(kind: "unet" | "t5", config, dtype, prefix, shardBytes): Promise<{ file, names, bytes }[]>
Napi::Value write_random_weights(const Napi::CallbackInfo& info) {
  const std::string kind = read_string(info[0], "kind"), config = read_string(info[1], "config");
  const DType dtype = read_dtype(info[2], "dtype");
  const std::string prefix = read_string(info[3], "prefix");
  const int64_t shard_bytes = read_integer(info[4], "shardBytes", 1, int64_t(1) << 50);
  DF_CHECK(kind == "unet" || kind == "t5", "kind: expected unet or t5, got \"%s\"", kind.c_str());
  std::vector<TensorInfo> tensors = kind == "unet"
                                        ? UNet(UNetConfig::from_json(config), DType::F32, kMeta).parameters()
                                        : T5Encoder(T5Config::from_json(config), DType::F32, kMeta).parameters();
  for (TensorInfo& t : tensors) t.dtype = dtype;
  return run_command(info.Env(), kCpu, nullptr, [=]() -> Deliver {
    const std::vector<Shard> shards = split_into_shards(tensors, prefix, shard_bytes);
    RandomSource source(tensors);
    for (const Shard& shard : shards) {
      SafetensorsWriter writer(shard.file, shard.tensors, {{"format", "pt"}});
      for (const TensorInfo& t : shard.tensors) {
        begin_op();
        writer.write(t.name, source.read(t.name));
        release_cached(kCpu);  // every tensor has another size
      }
      writer.commit();
    }
    return [shards](Napi::Env env) -> Napi::Value {
      auto files = Napi::Array::New(env);
      for (uint32_t i = 0; i < shards.size(); i++) {
        auto names = Napi::Array::New(env);
        double bytes = 0;
        for (uint32_t j = 0; j < shards[i].tensors.size(); j++) {
          const TensorInfo& t = shards[i].tensors[j];
          names.Set(j, t.name);
          bytes += double(t.shape.numel()) * double(dtype_size(t.dtype));
        }
        auto file = Napi::Object::New(env);
        file.Set("file", shards[i].file);
        file.Set("names", names);
        file.Set("bytes", bytes);
        files.Set(i, file);
      }
      return files;
    };
  });
}

}  // namespace

void bind_benchmarks(Napi::Env env, Napi::Object exports) {
  bind<bench_linear>(env, exports, "benchLinear");
  bind<bench_conv>(env, exports, "benchConv");
  bind<write_random_weights>(env, exports, "writeRandomWeights");
}

}  // namespace df::addon
