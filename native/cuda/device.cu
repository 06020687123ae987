// The devices of this machine, and their runtime: memory, copies, what core and ops ask for.
#include <array>
#include <atomic>
#include <memory>
#include <mutex>

#include "core/device_runtime.h"
#include "cuda/cuda_backend.h"
#include "cuda/device.h"
#include "cuda/device_memory.h"
#include "cuda/staging.h"
#include "cuda/stream_scope.h"

namespace df {
namespace {

using cuda::stream;

// Any kernel of this build: whether it can be loaded tells whether the build has code for a device.
__global__ void __launch_bounds__(32, 1) probe() {}

class Graph : public DeviceGraph {
 public:
  Graph(Device device, cudaGraphExec_t executable, std::shared_ptr<void> memory)
      : device_(device), executable_(executable), memory_(std::move(memory)) {}
  ~Graph() override { (void)cudaGraphExecDestroy(executable_); }
  void replay() override { gpu::check(cudaGraphLaunch(executable_, stream(device_))); }

 private:
  Device device_;
  cudaGraphExec_t executable_;
  std::shared_ptr<void> memory_;
};

class CudaRuntime : public DeviceRuntime {
 public:
  void check(Device device) override { open(device); }
  Backend& backend(Device device) override {
    open(device);
    return cuda::backend();
  }

  void* allocate(Device device, size_t& bytes) override {
    Opened& d = open(device);
    gpu::check(cudaSetDevice(device.index));
    return d.memory->allocate(bytes);
  }
  void free(Device device, void* data, size_t bytes) override { opened_[size_t(device.index)].memory->free(data, bytes); }
  size_t cached(Device device) override {
    Opened* d = find(device);
    return d ? d->memory->cached() : 0;
  }
  void release_cached(Device device) override {
    Opened* d = find(device);
    if (!d) return;
    gpu::check(cudaSetDevice(device.index));
    d->memory->release();
  }
  size_t available(Device device) override {
    Opened& d = open(device);
    gpu::check(cudaSetDevice(device.index));
    size_t free = 0, total = 0;
    gpu::check(cudaMemGetInfo(&free, &total));
    return free + d.memory->cached();
  }

  void set_zero(Device device, void* data, size_t bytes) override { cuda::set_zero(data, bytes, stream(device)); }

  void copy(const DeviceRows& to, const DeviceRows& from, size_t row_bytes, size_t rows) override {
    const bool dense = to.pitch == row_bytes && from.pitch == row_bytes;
    if (dense && rows > 1) row_bytes *= rows, rows = 1;
    if (from.device.type == DeviceType::Cpu) return open(to.device).staging->upload(to, from, row_bytes, rows, stream(to.device));
    open(from.device);
    if (to.device.type == DeviceType::Cpu) return download(to, from, row_bytes, rows);
    open(to.device);
    if (to.device == from.device)
      return copy_rows(to, from, row_bytes, rows, cudaMemcpyDeviceToDevice, stream(to.device));
    copy_to_peer(to, from, row_bytes, rows);
  }

  void synchronize(Device device) override { gpu::check(cudaStreamSynchronize(stream(device))); }

  // On a stream of its own, so that what other threads give to the device meanwhile is not recorded.
  std::shared_ptr<DeviceGraph> record(Device device, const std::function<void()>& run) override {
    Opened& d = open(device);
    gpu::check(cudaStreamSynchronize(stream(device)));
    const DeviceMemory::RecordingScope memory(*d.memory);
    cudaGraph_t recorded = nullptr;
    gpu::check(cudaStreamBeginCapture(d.recording, cudaStreamCaptureModeRelaxed));
    bool complete = true;
    try {
      const cuda::StreamScope scope(device, d.recording);
      run();
    } catch (const Error& e) {
      if (e.code == ErrorCode::Cancelled) {
        (void)cudaStreamEndCapture(d.recording, &recorded);
        if (recorded) (void)cudaGraphDestroy(recorded);
        throw;
      }
      complete = false;
    }
    cudaGraphExec_t executable = nullptr;
    complete = cudaStreamEndCapture(d.recording, &recorded) == cudaSuccess && complete &&
               cudaGraphInstantiate(&executable, recorded, 0) == cudaSuccess;
    if (recorded) (void)cudaGraphDestroy(recorded);
    (void)cudaGetLastError();
    return complete ? std::make_shared<Graph>(device, executable, memory.keep()) : nullptr;
  }

 private:
  static constexpr int kMost = 64;
  struct Opened {
    std::atomic<bool> ready{false};
    std::unique_ptr<DeviceMemory> memory;
    gpu::Stream recording = nullptr;
    std::unique_ptr<Staging> staging;
    cudaEvent_t event = nullptr;  // orders copies between devices
  };

  Opened* find(Device device) {
    if (device.index >= kMost) return nullptr;
    Opened& d = opened_[size_t(device.index)];
    return d.ready.load(std::memory_order_acquire) ? &d : nullptr;
  }

  // Checks the device the first time.
  Opened& open(Device device) {
    if (Opened* d = find(device)) return *d;
    std::lock_guard<std::mutex> lock(mutex_);
    if (Opened* d = find(device)) return *d;
    const CudaInfo info = query_cuda();
    const auto refuse = [&](const std::string& why) {
      fail(ErrorCode::NotBuilt, "%s cannot be used: %s", device.str().c_str(), why.c_str());
    };
    if (const std::string why = cuda_refusal(info, device.index); !why.empty()) refuse(why);
    const CudaDevice& facts = info.devices[size_t(device.index)];
    if (device.index >= kMost) refuse(format("only the first %d devices can be", kMost));
    cudaFuncAttributes attributes;
    cudaError_t status = cudaSetDevice(device.index);
    if (status == cudaSuccess) status = cudaFuncGetAttributes(&attributes, probe);
    if (status != cudaSuccess) (void)cudaGetLastError();
    if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction || status == cudaErrorUnsupportedPtxVersion)
      refuse(no_kernels_refusal(facts));
    if (status == cudaErrorMemoryAllocation) refuse("its memory is full: another process uses it");
    if (status != cudaSuccess) refuse(cudaGetErrorString(status));
    Opened& d = opened_[size_t(device.index)];
    d.memory = std::make_unique<DeviceMemory>(
        [](size_t bytes) -> void* {
          void* segment = nullptr;
          const cudaError_t result = cudaMalloc(&segment, bytes);
          if (result == cudaSuccess) return segment;
          (void)cudaGetLastError();
          if (result != cudaErrorMemoryAllocation) gpu::check(result);
          return nullptr;
        },
        [](void* segment) { (void)cudaFree(segment); });  // waits for the device; a lost one has nothing to give back
    d.staging = std::make_unique<Staging>();
    gpu::check(cudaEventCreateWithFlags(&d.event, cudaEventDisableTiming));
    gpu::check(cudaStreamCreateWithFlags(&d.recording, cudaStreamNonBlocking));
    d.ready.store(true, std::memory_order_release);
    return d;
  }

  // A pitch is limited to 2 GiB, one row is not.
  static void copy_rows(const DeviceRows& to, const DeviceRows& from, size_t row_bytes, size_t rows, cudaMemcpyKind kind,
                        gpu::Stream s) {
    gpu::check(rows == 1 ? cudaMemcpyAsync(to.data, from.data, row_bytes, kind, s)
                         : cudaMemcpy2DAsync(to.data, to.pitch, from.data, from.pitch, row_bytes, rows, kind, s));
  }

  void download(const DeviceRows& to, const DeviceRows& from, size_t row_bytes, size_t rows) {
    const gpu::Stream s = stream(from.device);
    copy_rows(to, from, row_bytes, rows, cudaMemcpyDeviceToHost, s);
    gpu::check(cudaStreamSynchronize(s));
  }

  // On the stream of the target, behind what the source was given before; the source goes on behind the copy.
  void copy_to_peer(const DeviceRows& to, const DeviceRows& from, size_t row_bytes, size_t rows) {
    std::lock_guard<std::mutex> lock(mutex_);
    connect(to.device.index, from.device.index);
    Opened &source = opened_[size_t(from.device.index)], &target = opened_[size_t(to.device.index)];
    const gpu::Stream behind = stream(from.device);
    gpu::check(cudaEventRecord(source.event, behind));
    const gpu::Stream s = stream(to.device);
    gpu::check(cudaStreamWaitEvent(s, source.event));
    for (size_t r = 0; r < rows; r++)
      gpu::check(cudaMemcpyPeerAsync(static_cast<char*>(to.data) + r * to.pitch, to.device.index,
                                     static_cast<const char*>(from.data) + r * from.pitch, from.device.index, row_bytes, s));
    gpu::check(cudaEventRecord(target.event, s));
    gpu::check(cudaSetDevice(from.device.index));
    gpu::check(cudaStreamWaitEvent(behind, target.event));
  }

  // Without direct access the driver copies through the memory of the host.
  void connect(int to, int from) {
    bool& known = connected_[size_t(to)][size_t(from)];
    if (known) return;
    known = true;
    int direct = 0;
    gpu::check(cudaDeviceCanAccessPeer(&direct, to, from));
    gpu::check(cudaSetDevice(to));
    if (!direct || cudaDeviceEnablePeerAccess(from, 0) != cudaSuccess) (void)cudaGetLastError();
  }

  std::mutex mutex_;
  std::array<Opened, kMost> opened_;
  std::array<std::array<bool, kMost>, kMost> connected_{};
};

}  // namespace

CudaInfo query_cuda() {
  CudaInfo info;
  info.built = true;
  info.runtime = CUDART_VERSION;
  if (cudaDriverGetVersion(&info.driver) != cudaSuccess) info.driver = 0;
  int count = 0;
  cudaError_t status = info.driver ? cudaGetDeviceCount(&count) : cudaSuccess;
  for (int i = 0; status == cudaSuccess && i < count; i++) {
    cudaDeviceProp p;
    status = cudaGetDeviceProperties(&p, i);
    if (status == cudaSuccess) info.devices.push_back({p.name, p.totalGlobalMem, 10 * p.major + p.minor});
  }
  if (status != cudaSuccess && status != cudaErrorNoDevice) info.error = cudaGetErrorString(status);
  (void)cudaGetLastError();
  return info;
}

DeviceRuntime& built_device_runtime() {
  static auto* runtime = new CudaRuntime();  // never destroyed: storages may be released at exit
  return *runtime;
}

}  // namespace df
