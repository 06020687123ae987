// What is around the kernels: device memory, copies, plans, and what is said when a device cannot be used.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "compare.h"
#include "core/device_runtime.h"
#include "core/execution.h"
#include "cuda/device.h"
#include "cuda/device_arena.h"
#include "cuda/emulation/backend.h"
#include "cuda/weight_layout.h"
#include "device_case.h"
#include "emulated_device.h"
#include "golden_models.h"
#include "harness.h"
#include "op_case.h"
#include "nn/denoise.h"
#include "ops/ops.h"
#include "tensors.h"

namespace df::test {
namespace {

constexpr size_t kMiB = size_t(1) << 20;

// Segments that are only addresses; `limit` bytes of them exist.
struct FakeMemory {
  explicit FakeMemory(size_t bytes) : limit(bytes) {}
  size_t limit, taken = 0, acquired = 0;
  std::map<void*, size_t> segments;
  uintptr_t next = uintptr_t(1) << 40;
  DeviceArena arena{[this](size_t bytes) -> void* {
                      if (bytes > limit - taken) return nullptr;
                      void* p = reinterpret_cast<void*>(next);
                      next += bytes + DeviceArena::kSegmentUnit;  // never neighbours
                      segments[p] = bytes;
                      taken += bytes;
                      acquired++;
                      return p;
                    },
                    [this](void* p) {
                      taken -= segments.at(p);
                      segments.erase(p);
                    }};
  void* get(size_t bytes) { return arena.allocate(bytes); }
};

const Registration memory([](Suite& suite) {
  suite.add("device arena: a step that was done once takes no more memory", [] {
    FakeMemory m(4096 * kMiB);
    const auto step = [&] {
      std::vector<std::pair<void*, size_t>> live;
      std::mt19937 random(7);
      for (int i = 0; i < 2000; i++) {
        size_t bytes = size_t(1) << (random() % 27);
        bytes += random() % bytes;
        void* p = m.arena.allocate(bytes);
        CHECK(p && bytes % DeviceArena::kUnit == 0 && reinterpret_cast<uintptr_t>(p) % 256 == 0);
        live.emplace_back(p, bytes);
        for (const auto& [other, size] : live)
          CHECK(other == p || static_cast<char*>(other) + size <= p || static_cast<char*>(p) + bytes <= other);
        while (live.size() > 8) {
          const size_t k = random() % live.size();
          m.arena.free(live[k].first, live[k].second);
          live.erase(live.begin() + std::ptrdiff_t(k));
        }
      }
      for (const auto& [p, bytes] : live) m.arena.free(p, bytes);
    };
    step();
    const size_t acquired = m.acquired;
    for (int i = 0; i < 3; i++) step();
    CHECK(m.acquired == acquired && m.arena.cached() == m.taken);
    m.arena.release();
    CHECK(m.taken == 0 && m.arena.cached() == 0 && m.segments.empty());
  });
  suite.add("device arena: near the limit", [] {
    FakeMemory m(600 * kMiB);
    void* a = m.get(500 * kMiB);
    void* b = m.get(80 * kMiB);  // a segment of less than the usual size
    CHECK(a && b && m.arena.cached() <= 20 * kMiB);
    CHECK(!m.get(30 * kMiB) && !m.get(std::numeric_limits<size_t>::max()));
    m.arena.free(a, 500 * kMiB);
    CHECK(m.get(510 * kMiB));  // the free segment went back for a larger one
    m.arena.free(b, 80 * kMiB);
    CHECK(m.get(70 * kMiB) == b);
    CHECK(m.get(100) && m.get(100));  // small blocks have a segment of their own
    CHECK(m.segments.size() == 3);
  });

  suite.add("device memory: what does not fit is refused with numbers, and the rest goes on", [] {
    const EmulatedDevice device(64 * kMiB);
    const size_t before = memory_stats(kCuda).current;
    const Tensor kept = Tensor::zeros({1 << 20}, DType::F32, kCuda);
    expect_error(ErrorCode::OutOfMemory, "cuda:0: cannot allocate 67.1 MB; 62.9 MB are free there, and 4.2 MB are in use",
                 [] { Tensor::empty({16 << 20}, DType::F32, kCuda); });
    CHECK(memory_stats(kCuda).current == before + kept.bytes());
    reset_peak(kCuda);
    {
      const Tensor more = Tensor::zeros({8 << 20}, DType::F32, kCuda);
      CHECK(memory_stats(kCuda).peak == before + kept.bytes() + more.bytes());
      CHECK(on(more, kCpu).data<float>()[(8 << 20) - 1] == 0);
    }
    CHECK(on(kept, kCpu).data<float>()[5] == 0 && memory_stats(kCuda).cached == 60 * kMiB);
  });
  suite.add("device memory: what is kept for reuse goes back", [] {
    const EmulatedDevice device(2048 * kMiB);
    const Tensor small = Tensor::zeros({5}, DType::F32, kCuda);
    { const Tensor large = Tensor::zeros({8 << 20}, DType::F32, kCuda); }
    CHECK(memory_stats(kCuda).cached >= DeviceArena::kLargeSegment);
    release_cached(kCuda);
    CHECK(memory_stats(kCuda).cached < DeviceArena::kSmallSegment && on(small, kCpu).data<float>()[4] == 0);
  });
});

const Registration copies([](Suite& suite) {
  add_device_case(suite, "device copies keep the bits, strided or not", [] {
    Random random("copies");
    for (const Layout layout : {Layout::Dense, Layout::Strided})
      for (const Shape& shape : {Shape{1, 1}, Shape{3, 5, 7}, Shape{2, 70000}, Shape{5000, 33}}) {
        const Tensor x = random_tensor(random, shape, DType::F32, layout);
        const Tensor there = ops::to_device(x, kCuda);
        CHECK(there.device() == kCuda && there.contiguous());
        CHECK(different_bits(on(there, kCpu), x).empty());
        const Tensor wide = Tensor::zeros({shape.rows(), shape[-1] + 9}, DType::F32, kCuda);
        const Tensor slice = wide.slice_last(4, shape[-1]).reshape(shape);
        transfer(slice, x);
        CHECK(different_bits(on(slice, kCpu), x).empty());
        transfer(there, slice);  // on the device
        const Tensor back = guarded(shape, DType::F32, layout);
        transfer(back, there);
        check_guard(back, layout);
        CHECK(different_bits(back, x).empty());
        CHECK(on(wide, kCpu).data<float>()[0] == 0 && on(wide, kCpu).data<float>()[wide.numel() - 1] == 0);
      }
  });
  add_device_case(suite, "device copies longer than the ring of an upload", [] {
    const Tensor x = Tensor::empty({(50 << 20) + 3}, DType::U8, kCpu);
    for (int64_t i = 0; i < x.numel(); i++) x.data<uint8_t>()[i] = uint8_t(i * 2654435761u >> 13);
    const Tensor there = ops::to_device(x, kCuda), again = ops::to_device(x.reshape({x.numel(), 1}), kCuda);
    for (const Tensor& t : {there, again.reshape({again.numel()})})
      CHECK(std::memcmp(on(t, kCpu).raw(), x.raw(), x.bytes()) == 0);
  });
  add_device_case(suite, "device copies between devices", [] {
    const Tensor x = tensor_of({2, 3}, {1, 2, 3, 4, 5, 6});
    const Tensor first = ops::to_device(x, kCuda), second = ops::to_device(first, {DeviceType::Cuda, 1});
    CHECK(second.device().index == 1 && different_bits(on(second, kCpu), x).empty());
  }, 2);
  suite.add("device ids and masks are checked before they go there", [] {
    const EmulatedDevice device;
    T5Encoder encoder(golden_t5_config(), DType::F32, kCuda);
    const auto check = [&](const std::vector<int32_t>& ids, const std::vector<int32_t>& mask) {
      ops::check_ids(ints({1, 3}, ids), encoder.config().vocab_size);
      ops::check_mask(ints({1, 3}, mask));
    };
    check({1, 2, 3}, {1, 0, 0});
    expect_error(ErrorCode::InvalidArgument, "ids must be in [0, ", [&] { check({1, 1 << 20, 3}, {1, 1, 1}); });
    expect_error(ErrorCode::InvalidArgument, "at least one key", [&] { check({1, 2, 3}, {0, 0, 0}); });
  });
});

// Pictures of steps that were recorded, those of steps that were not, and those of the CPU.
void check_sampling(const char* folder, DType dtype) {
  const UNetConfig config = golden_unet_config(folder);
  const int64_t channels = config.class_embed ? 3 : config.in_channels;
  const auto sample = [&](Device device, bool recorded) {
    UNet unet(config, dtype == DType::F16 && device == kCpu ? DType::F32 : dtype, device, Precision::Exact);
    SafetensorsSource source = golden_unet_source(folder);
    unet.load(source);
    Random random("sampling");
    const auto uniform = [&](const Shape& shape) { return on(random_tensor(random, shape, DType::F32, Layout::Dense), device); };
    const Tensor text = uniform({4, 6, config.encoder_hid_dim});
    Conditioning cond = unet.prepare(text);
    DenoiseState state{.x = uniform({2, 16, 16, channels}), .low_res = {}, .noise_level = 200};
    if (config.class_embed) state.low_res = uniform({2, 16, 16, channels});
    DdpmStep step{.sample_scale = 1.1f, .output_scale = -0.4f, .threshold = DdpmStep::Threshold::Dynamic, .ratio = 0.95f,
                  .max_value = 1.5f, .x0_coef = 0.3f, .x_coef = 0.6f, .add_noise = true, .sigma = 0.2f, .guidance = 3};
    for (int i = 0; i < 4; i++) {
      WorkCounter work;
      Execution execution;
      execution.work = &work;
      ExecutionScope scope(execution);
      state.timestep = float(900 - 200 * i);
      if (!recorded) cond.steps = std::make_shared<RecordedForward>();
      const Tensor noise = uniform({2, 16, 16, channels});
      state.x = denoise_step(unet, cond, state, noise, step, true).prev;
      CHECK(work.flops > 0);
      static std::map<std::string, double> flops;
      CHECK(flops.emplace(folder, work.flops).first->second == work.flops);
    }
    return on(state.x, kCpu);
  };
  const Tensor recorded = sample(kCuda, true), eager = sample(kCuda, false);
  const std::string error = different_bits(recorded, eager);
  if (!error.empty()) fail_case("recorded and eager steps: %s", error.c_str());
  // four steps of a network whose outputs agree to 1e-5, or to the rounding of its dtype, magnified by guidance
  check_close("the CPU's picture", recorded, sample(kCpu, false), dtype == DType::F32 ? 1e-4 : 25.6 * dtype_epsilon(dtype));
}

const Registration sampling([](Suite& suite) {
  for (const DType dtype : kComputed)
    for (const char* folder : {"tiny-if-I/unet", "tiny-if-II/unet"})
      add_device_case(suite, format("device sampling of %s %s", folder, dtype_name(dtype)), [=] { check_sampling(folder, dtype); });
});

const Registration messages([](Suite& suite) {
  suite.add("device refusals say what is wrong in one line", [] {
    CudaInfo info;
    const auto says = [&](int index, const std::string& part) {
      const std::string text = cuda_refusal(info, index);
      if (text.find(part) == std::string::npos) fail_case("expected \"%s\", got \"%s\"", part.c_str(), text.c_str());
      CHECK(text.find('\n') == std::string::npos);
    };
    says(0, "this build has no CUDA kernels");
    info.built = true;
    info.runtime = 13000;
    says(0, "no NVIDIA driver is installed");
    info.driver = 12080;
    says(0, "the NVIDIA driver is too old: it supports CUDA 12.8, and this build needs 13.0");
    info.driver = 13010;
    says(0, "there is no CUDA device");
    info.error = "system not yet initialized";
    says(0, "the NVIDIA driver reports: system not yet initialized");
    info.error = "";
    info.devices = {{"NVIDIA H200", 141 * kMiB, 90}};
    CHECK(cuda_refusal(info, 0).empty());
    says(1, "the only CUDA device is cuda:0");
    info.devices.push_back({"Tesla V100", 16 * kMiB, 70});
    says(1, "Tesla V100 has compute capability 7.0, and the kernels need 8.0 or newer");
    says(2, "there are 2 CUDA devices, cuda:0 to cuda:1");
    CHECK(no_kernels_refusal(info.devices[0]).find("no kernels for NVIDIA H200 (compute capability 9.0)") != std::string::npos);
    CHECK(cuda_failure("an illegal memory access was encountered", true) ==
          "cuda: an illegal memory access was encountered; the device is lost to this process: start it again");
    CHECK(cuda_failure("out of memory", false) == "cuda: out of memory");
  });
});

const Registration plans([](Suite& suite) {
  suite.add("device plan: packed weights have the bytes that the backend gives them", [] {
    Random random("plan");
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const Shape& shape : {Shape{5, 3}, Shape{64, 160}, Shape{7, 3, 3, 6}, Shape{6, 1, 1, 32}}) {
        const bool convolution = shape.rank() == 4;
        const int64_t kh = convolution ? shape[1] : 1, kw = convolution ? shape[2] : 1;
        const Weight w = emulated_cuda_backend().pack(random_tensor(random, shape, DType::F32, Layout::Dense), dtype);
        CHECK(w.data.bytes() == cuda_packed_bytes(shape[0], kh, kw, shape[-1], dtype));
        CHECK(emulated_cuda_backend().packed_bytes(shape[0], kh, kw, shape[-1], dtype) == w.data.bytes());
        CHECK(ops::pack(Tensor::empty(shape, DType::F32, kMetaCuda), dtype).data.bytes() == w.data.bytes());
      }
  });
});

}  // namespace
}  // namespace df::test
