#include "emulated_device.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <map>

#include "core/device_runtime.h"
#include "core/error.h"
#include "cuda/device_memory.h"
#include "cuda/emulation/backend.h"
#include "cuda/emulation/runtime.h"

namespace df::test {
namespace {

// Segments of device memory, all locked or all open.
class Segments {
 public:
  void* acquire(size_t bytes) {
    void* p = ::mmap(nullptr, bytes + kHuge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    // on huge pages a change of the access is 500 times fewer entries of the page table
    char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + kHuge - 1) / kHuge * kHuge);
    ::madvise(start, bytes, MADV_HUGEPAGE);
    ::mprotect(start, bytes, access());
    all_[start] = {p, bytes};
    return start;
  }
  size_t release(void* start) {
    const Segment segment = all_.at(start);
    ::munmap(segment.mapping, segment.bytes + kHuge);
    all_.erase(start);
    return segment.bytes;
  }
  void open(bool on) {
    depth_ += on ? 1 : -1;
    if (depth_ > 1 || (on && depth_ != 1)) return;
    for (const auto& [start, segment] : all_) ::mprotect(start, segment.bytes, access());
  }

 private:
  int access() const { return depth_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE; }
  struct Segment {
    void* mapping;
    size_t bytes;
  };
  static constexpr size_t kHuge = size_t(2) << 20;
  std::map<void*, Segment> all_;
  int depth_ = 0;
};
Segments segments;

class Emulated : public DeviceRuntime {
 public:
  explicit Emulated(size_t memory) : memory_(memory) {}

  void check(Device device) override {
    if (device.index > 1) fail(ErrorCode::NotBuilt, "%s cannot be used: two are emulated", device.str().c_str());
  }
  Backend& backend(Device device) override {
    check(device);
    return emulated_cuda_backend();
  }
  void* allocate(Device device, size_t& bytes) override {
    check(device);
    void* block = of(device).memory.allocate(bytes);
    if (!block) return nullptr;
    const emu::DeviceMemoryAccess access;
    std::memset(block, 0xff, bytes);  // NaN
    return block;
  }
  void free(Device device, void* data, size_t bytes) override { of(device).memory.free(data, bytes); }
  size_t cached(Device device) override { return of(device).memory.cached(); }
  void release_cached(Device device) override { of(device).memory.release(); }
  size_t available(Device device) override { return memory_ - of(device).taken + cached(device); }
  void set_zero(Device device, void* data, size_t bytes) override {
    if (auto* recording = emu::settings().recording) {
      recording->push_back([=, this] { set_zero(device, data, bytes); });
      return;
    }
    const emu::DeviceMemoryAccess access;
    std::memset(data, 0, bytes);
  }
  void copy(const DeviceRows& to, const DeviceRows& from, size_t row_bytes, size_t rows) override {
    if (emu::settings().recording) throw emu::Fault("copy while work is recorded");
    const emu::DeviceMemoryAccess access;
    for (size_t r = 0; r < rows; r++)
      std::memcpy(static_cast<char*>(to.data) + r * to.pitch, static_cast<const char*>(from.data) + r * from.pitch, row_bytes);
  }
  void synchronize(Device) override {}
  std::shared_ptr<DeviceGraph> record(Device device, const std::function<void()>& run) override {
    const DeviceMemory::RecordingScope memory(of(device).memory);
    auto graph = std::make_shared<Recorded>();
    graph->memory = memory.keep();
    emu::settings().recording = &graph->work;
    struct Stop { ~Stop() { emu::settings().recording = nullptr; } } stop;
    run();
    return graph;
  }

 private:
  struct Recorded : DeviceGraph {
    std::vector<std::function<void()>> work;
    std::shared_ptr<void> memory;
    void replay() override {
      for (const auto& once : work) once();
    }
  };
  struct Memory {
    Emulated& owner;
    size_t taken = 0;
    DeviceMemory memory{[this](size_t bytes) -> void* {
                          if (bytes > owner.memory_ - taken) return nullptr;
                        void* p = segments.acquire(bytes);
                        if (p) taken += bytes;
                        return p;
                      },
                      [this](void* p) { taken -= segments.release(p); }};
  };
  Memory& of(Device device) { return device.index == 0 ? first_ : second_; }

  size_t memory_;
  Memory first_{*this}, second_{*this};
};

// Never destroyed: storages may outlive a scope.
Emulated* current = nullptr;

}  // namespace

EmulatedDevice::EmulatedDevice(size_t memory) {
  current = new Emulated(memory);
  set_device_runtime(current);
  emu::settings() = {};
  emu::settings().device_memory = [](bool open) { segments.open(open); };
}

EmulatedDevice::~EmulatedDevice() {
  for (int i = 0; i < 2; i++) current->release_cached({DeviceType::Cuda, i});
  set_device_runtime(nullptr);
  emu::settings().device_memory = nullptr;
}

}  // namespace df::test
