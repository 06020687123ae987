// Shared by the parts of the runtime; kernels never see it.
#pragma once
#include <algorithm>
#include <new>
#include <vector>

#include "cuda/emulation/cuda_language.h"

namespace emu::detail {

constexpr size_t arena_bytes = 256 * 1024;

enum class State { Ready, Waiting, Done };

struct Thread {
  int index = 0;
  Index3 position;
  State state = State::Ready;
  const char* waits_for = "";
  Site site{};
  struct Copy { void* shared; const void* global; int bytes; bool valid; int group; };
  std::vector<Copy> copies;  // cp.async in flight
  int copy_group = 0;
};

struct Barrier {
  int arrived = 0, expected = 0, generation = 0;
  Site site{};
  std::vector<Thread*> waiting;
  char order[2];  // addresses that the race detector knows the barrier by, one per parity of its generation
};

struct Collective {
  uint32_t mask = 0;
  int arrived = 0, generation = 0;
  CollectiveAction act = nullptr;
  const char* name = "";
  Site site{};
  void* args[128] = {};
  Thread* waiting[128];
  char order[2];
};

struct Warp {
  Collective collectives[4];  // disjoint masks may be under way at once
};

struct WgmmaGroup {  // a warpgroup: four warps, 128 threads
  Collective collectives[4];
  struct Pending { std::vector<WgmmaOperation> threads; int group; };
  std::vector<Pending> pending;
  int group = 0;
  bool fenced = false;
};

struct StaticShared {
  Site site;
  size_t bytes;
  unsigned char* pointer;
};

struct BulkCopy {  // TMA
  TensorMap map;
  int coordinates[5];
  unsigned char* shared;
  uint64_t* bar;
  Site site;
};

struct Block {
  Index3 index;
  std::vector<Thread> threads;
  std::vector<Thread*> ready;
  size_t ready_head = 0;
  int alive = 0;
  std::vector<Warp> warps;
  std::vector<WgmmaGroup> groups;
  Barrier barriers[16];
  unsigned char* shared = nullptr;
  size_t dynamic_bytes = 0, static_used = 0;
  std::vector<StaticShared> statics;
  std::vector<BulkCopy> copies;
  struct Waiter { uint64_t* bar; uint32_t parity; Thread* thread; };
  std::vector<Waiter> mbarrier_waiters;
  std::vector<uint64_t*> mbarriers;  // initialised ones
  // For the race detector, the asynchronous proxy is two more threads: one writes (TMA), one reads (wgmma).
  void *load_engine = nullptr, *read_engine = nullptr;
  char proxy_fence = 0, loads = 0, reads = 0;
  std::string error;
};

struct Grid {
  Index3 extent, threads;
  const std::function<void()>* body = nullptr;
  uint64_t random = 0;
  char start = 0, end = 0;
  uint64_t draw();
};

extern Grid* grid;
extern Block* block;
extern Thread* self;

void suspend();
void make_ready(Thread* t);
void on_thread_exit();
bool run_one_copy();

bool race_detector();
void acquire(const void* p);
void release(const void* p);
void saw_read(const void* p, size_t n);
void saw_write(void* p, size_t n);
void* new_tsan_fiber();
void free_tsan_fiber(void* f);

// The runtime's own bookkeeping (its heap traffic, which the race detector intercepts) is not the kernel's business.
struct Quiet {
  Quiet();
  ~Quiet();
};

struct AsEngine {  // the race detector books what follows on the engine
  explicit AsEngine(void* engine);
  ~AsEngine();
  void* before = nullptr;
};

}  // namespace emu::detail

namespace emu {
void group_collective(detail::Collective* list, int lanes, int lane, uint32_t mask, CollectiveAction act, void* arg,
                      const char* name, bool orders_memory, Site site);
}
