// Timings without Node: one JSON line per measurement. Random weights, configurations of bench/model-configs.json.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include "bench/published_config.h"
#include "bench/timing.h"
#include "core/device_runtime.h"
#include "core/error.h"
#include "core/execution.h"
#include "core/queue.h"
#include "cuda/device.h"

namespace df {
namespace {

constexpr const char* kUsage =
    "usage: if_bench KIND [--NAME VALUE ...]\n"
    "  device                                    the CUDA devices, or why cuda:0 cannot be used\n"
    "  unet     --config NAME --batch N --size PX   one forward pass\n"
    "  t5       --config NAME --batch N             one encoding of 77 tokens\n"
    "  training --config NAME --batch N --size PX --checkpointing 0|1   forward, backward and AdamW\n"
    "  linear   --shape M,N,K                    one linear layer\n"
    "  conv     --shape BATCH,SIZE,IN,OUT        one 3x3 convolution\n"
    "  --configs FILE (bench/model-configs.json)  --device cpu|cuda:N (cpu)  --dtype f32|bf16|f16 (bf16)  --runs N (10)\n";

using Options = std::map<std::string, std::string>;

Options read_options(int argc, char** argv) {
  const std::set<std::string> known{"config", "configs", "batch", "size", "checkpointing", "shape", "device", "dtype", "runs"};
  Options o{{"configs", "bench/model-configs.json"}, {"batch", "2"},   {"checkpointing", "0"}, {"device", "cpu"},
            {"dtype", "bf16"},                       {"runs", "10"}};
  for (int i = 2; i < argc; i += 2) {
    const std::string name = std::strncmp(argv[i], "--", 2) == 0 ? argv[i] + 2 : "";
    DF_CHECK(known.count(name) && i + 1 < argc, "%s: expected --NAME VALUE\n%s", argv[i], kUsage);
    o[name] = argv[i + 1];
  }
  return o;
}

const std::string& text(const Options& o, const char* name) {
  const auto found = o.find(name);
  DF_CHECK(found != o.end(), "--%s is missing\n%s", name, kUsage);
  return found->second;
}

int64_t whole(const std::string& digits, const char* name) {
  DF_CHECK(!digits.empty() && digits.size() < 10 && digits.find_first_not_of("0123456789") == std::string::npos,
           "--%s: expected a whole number, got \"%s\"", name, digits.c_str());
  return std::stoll(digits);
}
int64_t number(const Options& o, const char* name) { return whole(text(o, name), name); }

std::vector<int64_t> shape_of(const Options& o, size_t rank) {
  std::vector<int64_t> all;
  const std::string& s = text(o, "shape");
  for (size_t at = 0; at <= s.size();) {
    const size_t comma = std::min(s.find(',', at), s.size());
    all.push_back(whole(s.substr(at, comma - at), "shape"));
    at = comma + 1;
  }
  DF_CHECK(all.size() == rank, "--shape: expected %zu numbers, got %zu", rank, all.size());
  return all;
}

Json config_of(const Options& o) {
  std::ifstream file(text(o, "configs"), std::ios::binary);
  if (!file) fail(ErrorCode::NotFound, "%s: cannot be read", text(o, "configs").c_str());
  const Json all = Json::parse(std::string(std::istreambuf_iterator<char>(file), {}), text(o, "configs"));
  const Json* found = all.find(text(o, "config"));
  DF_CHECK(found, "--config: \"%s\" is not in %s", text(o, "config").c_str(), text(o, "configs").c_str());
  return *found;
}
UNetConfig unet_of(const Options& o) { return UNetConfig::from_json(normalised_unet_config(config_of(o))); }

void print_devices() {
  const CudaInfo info = query_cuda();
  std::string devices;
  for (const CudaDevice& d : info.devices)
    devices += (devices.empty() ? "" : ",") + format("{\"name\":%s,\"memory_bytes\":%zu,\"capability\":\"%d.%d\"}",
                                                     json_quote(d.name).c_str(), d.memory_bytes, d.capability / 10, d.capability % 10);
  std::string refusal;
  try {
    device_runtime().check({DeviceType::Cuda, 0});
  } catch (const Error& e) {
    refusal = e.what();
  }
  std::printf("{\"kind\":\"device\",\"runtime\":%d,\"driver\":%d,\"devices\":[%s],\"refusal\":%s}\n", info.runtime, info.driver,
              devices.c_str(), json_quote(refusal).c_str());
}

void measure(const std::string& kind, const Options& o) {
  if (kind == "device") return print_devices();
  const Device device = Device::parse(text(o, "device"));
  const std::optional<DType> given = dtype_named(text(o, "dtype"));
  DF_CHECK(given == DType::F32 || given == DType::BF16 || given == DType::F16,
           "--dtype: expected f32, bf16 or f16, got \"%s\"", text(o, "dtype").c_str());
  const DType dtype = *given;
  const int64_t runs = number(o, "runs"), batch = number(o, "batch");
  DF_CHECK(runs > 0 && batch > 0, "--runs and --batch: expected at least 1");
  ThreadPool pool(available_cores());
  Execution execution;
  execution.pool = &pool;
  ExecutionScope scope(execution);
  Timing t;
  std::string what;
  const auto model = [&] { what = format("\"config\":%s,\"batch\":%lld", json_quote(text(o, "config")).c_str(), static_cast<long long>(batch)); };
  if (kind == "unet" || kind == "training") {
    const int64_t size = number(o, "size");
    model();
    what += format(",\"size\":%lld", static_cast<long long>(size));
    t = kind == "unet" ? time_unet(unet_of(o), dtype, batch, size, Precision::Default, runs, device)
                       : time_training(unet_of(o), dtype, batch, size, number(o, "checkpointing") != 0, runs, device);
  } else if (kind == "t5") {
    model();
    t = time_t5(T5Config::from_json(normalised_t5_config(config_of(o))), dtype, batch, runs, device);
  } else if (kind == "linear") {
    const auto s = shape_of(o, 3);
    what = format("\"shape\":[%s]", text(o, "shape").c_str());
    t = time_linear(s[0], s[1], s[2], dtype, false, runs, device);
  } else if (kind == "conv") {
    const auto s = shape_of(o, 4);
    what = format("\"shape\":[%s]", text(o, "shape").c_str());
    t = time_conv(s[0], s[1], s[2], s[3], dtype, Precision::Default, runs, device);
  } else {
    fail(ErrorCode::InvalidArgument, "unknown measurement \"%s\"\n%s", kind.c_str(), kUsage);
  }
  const double s = median(t.seconds);
  const char* kernels = std::getenv("IF_CUDA_KERNELS");
  const std::string chosen = device.type == DeviceType::Cuda && kernels ? ",\"kernels\":" + json_quote(kernels) : "";
  std::printf("{\"kind\":%s,%s,\"dtype\":\"%s\",\"device\":\"%s\",\"median_s\":%.6g,\"min_s\":%.6g,\"runs\":%lld,\"gflop\":%.6g,"
              "\"gflops\":%.6g,\"peak_bytes\":%zu%s}\n",
              json_quote(kind).c_str(), what.c_str(), dtype_name(dtype), device.str().c_str(), s,
              *std::min_element(t.seconds.begin(), t.seconds.end()), static_cast<long long>(runs), t.flops / 1e9,
              t.flops / s / 1e9, t.peak_bytes, chosen.c_str());
}

}  // namespace
}  // namespace df

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs(df::kUsage, stderr);
    return 2;
  }
  try {
    df::measure(argv[1], df::read_options(argc, argv));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "if_bench: %s\n", e.what());
    return 1;
  }
}
