// Fibers, scheduler, barriers and warp collectives. Compiled without sanitizers; see runtime.h.
#include "cuda/emulation/runtime_detail.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>

#if !defined(__x86_64__) || defined(EMU_UCONTEXT)
#include <ucontext.h>
#define EMU_USE_UCONTEXT 1
#endif

namespace emu {

Settings& settings() { static Settings s; return s; }
Statistics& statistics() { static Statistics s; return s; }

namespace detail {

Grid* grid = nullptr;
Block* block = nullptr;
Thread* self = nullptr;

// ---- sanitizers, found at link time (weak): the same object serves all builds ---------------------------------------
extern "C" {
#define EMU_WEAK __attribute__((weak))
EMU_WEAK void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);
EMU_WEAK void __sanitizer_finish_switch_fiber(void* fake, const void** bottom, size_t* size);
EMU_WEAK void __asan_poison_memory_region(const volatile void* p, size_t n);
EMU_WEAK void __asan_unpoison_memory_region(const volatile void* p, size_t n);
EMU_WEAK void* __tsan_get_current_fiber();
EMU_WEAK void* __tsan_create_fiber(unsigned flags);
EMU_WEAK void __tsan_destroy_fiber(void* fiber);
EMU_WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
EMU_WEAK void __tsan_acquire(void* p);
EMU_WEAK void __tsan_release(void* p);
EMU_WEAK void __tsan_read_range(void* p, unsigned long n);
EMU_WEAK void __tsan_write_range(void* p, unsigned long n);
EMU_WEAK void AnnotateIgnoreReadsBegin(const char* file, int line);
EMU_WEAK void AnnotateIgnoreReadsEnd(const char* file, int line);
EMU_WEAK void AnnotateIgnoreWritesBegin(const char* file, int line);
EMU_WEAK void AnnotateIgnoreWritesEnd(const char* file, int line);
}

bool race_detector() { return __tsan_create_fiber != nullptr; }
void acquire(const void* p) { if (race_detector()) __tsan_acquire(const_cast<void*>(p)); }
void release(const void* p) { if (race_detector()) __tsan_release(const_cast<void*>(p)); }
Quiet::Quiet() {
  if (race_detector()) AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0);
}
Quiet::~Quiet() {
  if (race_detector()) AnnotateIgnoreReadsEnd("", 0), AnnotateIgnoreWritesEnd("", 0);
}
// Called outside of any Quiet section of the same (real or engine) thread.
void saw_read(const void* p, size_t n) { if (race_detector()) __tsan_read_range(const_cast<void*>(p), n); }
void saw_write(void* p, size_t n) { if (race_detector()) __tsan_write_range(p, n); }
void* new_tsan_fiber() { return race_detector() ? __tsan_create_fiber(0) : nullptr; }
void free_tsan_fiber(void* f) { if (f) __tsan_destroy_fiber(f); }

AsEngine::AsEngine(void* engine) {
  if (!engine) return;
  before = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(engine, 1);
}
AsEngine::~AsEngine() {
  if (before) __tsan_switch_to_fiber(before, 1);
}

// ---- context switch -------------------------------------------------------------------------------------------------
#if !EMU_USE_UCONTEXT
// Saves the callee-saved registers of the System V ABI on the old stack and takes them from the new one.
asm(R"(
.text
.globl emu_switch_stack
.type emu_switch_stack,@function
emu_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emu_switch_stack,.-emu_switch_stack
)");
extern "C" void emu_switch_stack(void** save, void* load);
#endif

struct Context {
#if EMU_USE_UCONTEXT
  ucontext_t uc;
#else
  void* sp = nullptr;
#endif
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* tsan = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
};

constexpr size_t stack_bytes = 256 * 1024;

struct Fiber {
  Context context;
  char* stack = nullptr;
};

namespace {
Context scheduler;
// Reused from block to block. Under the race detector, blocks draw from several sets: a set's fibers keep their identity
// (their stacks' history makes sense only so), and two blocks that touch the same data are two parties if their sets differ.
std::vector<Fiber> fiber_sets[4];
int fiber_set = 0;
Fiber& fiber(int index) { return fiber_sets[fiber_set][size_t(index)]; }

void switch_to(Context& from, Context& to, bool leaving_for_ever) {
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(leaving_for_ever ? nullptr : &from.fake_stack, to.bottom, to.size);
  if (race_detector()) __tsan_switch_to_fiber(to.tsan, 1);  // 1: a switch orders nothing
#if EMU_USE_UCONTEXT
  swapcontext(&from.uc, &to.uc);
#else
  emu_switch_stack(&from.sp, to.sp);
#endif
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
}

void fiber_main() {
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, &scheduler.bottom, &scheduler.size);
  acquire(&grid->start);
  try {
    (*grid->body)();
    on_thread_exit();
  } catch (const std::exception& e) {
    if (block->error.empty()) block->error = e.what();
  }
  release(&grid->end);
  self->state = State::Done;
  switch_to(fiber(self->index).context, scheduler, true);
  __builtin_unreachable();
}

void prepare(Fiber& f) {
  if (!f.stack) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    void* p = mmap(nullptr, stack_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw Fault("emulation: no memory for fiber stacks");
    mprotect(p, page, PROT_NONE);  // overflow faults instead of corrupting
    f.stack = static_cast<char*>(p) + page;
  }
  Context& c = f.context;
  c.bottom = f.stack, c.size = stack_bytes, c.fake_stack = nullptr;
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(f.stack, stack_bytes);
#if EMU_USE_UCONTEXT
  getcontext(&c.uc);
  c.uc.uc_stack.ss_sp = f.stack, c.uc.uc_stack.ss_size = stack_bytes, c.uc.uc_link = nullptr;
  makecontext(&c.uc, fiber_main, 0);
#else
  // Stack tops at different offsets in their pages: otherwise all fibers share a few sets of the caches.
  void** top = reinterpret_cast<void**>(f.stack + stack_bytes - size_t(&f - fiber_sets[fiber_set].data()) % 61 * 64);
  *--top = nullptr;  // keeps (rsp + 8) % 16 == 0 at the entry of fiber_main
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  c.sp = top;
#endif
}
}  // namespace

void suspend() { switch_to(fiber(self->index).context, scheduler, false); }

void make_ready(Thread* t) {
  Quiet quiet;
  t->state = State::Ready;
  block->ready.push_back(t);
}

uint64_t Grid::draw() {  // splitmix64
  uint64_t z = (random += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull, z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

namespace {

std::string name_of(const Thread& t) {
  char text[96];
  std::snprintf(text, sizeof text, "block (%u,%u,%u) thread %d", block->index.x, block->index.y, block->index.z, t.index);
  return text;
}

Thread* take_ready() {
  auto& r = block->ready;
  size_t i = 0;
  switch (settings().order) {
    case Order::Ascending: {  // first in, first out
      Thread* t = r[block->ready_head++];
      if (block->ready_head == r.size()) r.clear(), block->ready_head = 0;
      return t;
    }
    case Order::Descending: i = r.size() - 1; break;  // last in, first out: one thread runs as far as it can
    case Order::Random: i = size_t(grid->draw() % r.size()); break;
  }
  std::swap(r[i], r.back());
  Thread* t = r.back();
  r.pop_back();
  return t;
}

// Everything that is left waits for something that will not come.
std::string describe_deadlock() {
  std::string text = "deadlock in block (" + std::to_string(block->index.x) + "," + std::to_string(block->index.y) + "," +
                     std::to_string(block->index.z) + "):";
  struct Key { const char* what; Site site; int first, count; };
  std::vector<Key> keys;
  int exited = 0;
  for (const Thread& t : block->threads) {
    if (t.state == State::Done) { ++exited; continue; }
    bool found = false;
    for (Key& k : keys)
      if (k.what == t.waits_for && k.site.line == t.site.line) ++k.count, found = true;
    if (!found) keys.push_back({t.waits_for, t.site, t.index, 1});
  }
  for (const Key& k : keys)
    text += "\n  " + std::to_string(k.count) + " threads (first " + std::to_string(k.first) + ") wait in " + k.what + " at " +
            k.site.file + ":" + std::to_string(k.site.line);
  return text + "\n  " + std::to_string(exited) + " threads have returned";
}

void run_block() {
  block->ready.clear(), block->ready_head = 0;
  for (Thread& t : block->threads) {
    Fiber& f = fiber(t.index);
    prepare(f);
    if (!f.context.tsan) f.context.tsan = new_tsan_fiber();
    make_ready(&t);
  }
  size_t alive = block->threads.size();
  while (alive && block->error.empty()) {
    if (settings().async == Async::Random && !block->copies.empty() && grid->draw() % 4 == 0) run_one_copy();
    if (block->ready.size() == block->ready_head) {
      if (run_one_copy()) continue;
      block->error = describe_deadlock();
      break;
    }
    self = take_ready();
    ++statistics().switches;
    switch_to(scheduler, fiber(self->index).context, false);
    if (self->state == State::Done) --alive;
    self = nullptr;
  }
  if (block->error.empty() && !block->copies.empty()) block->error = "block ended with bulk copies in flight";
}

// A block's shared memory: fresh for each block, so that the race detector starts afresh too.
struct Arena {
  unsigned char* base = static_cast<unsigned char*>(::operator new(arena_bytes, std::align_val_t(1024)));
  ~Arena() {
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(base, arena_bytes);
    ::operator delete(base, std::align_val_t(1024));
  }
};

}  // namespace

}  // namespace detail

using namespace detail;

void fault(Site site, const std::string& text) {
  std::string where = std::string(site.file) + ":" + std::to_string(site.line) + ": ";
  if (self) where += name_of(*self) + ": ";
  throw Fault(where + text);
}

void launch(const char* name, Index3 extent, Index3 threads, size_t dynamic_bytes, const std::function<void()>& body) {
  const size_t count = size_t(threads.x) * threads.y * threads.z, blocks = size_t(extent.x) * extent.y * extent.z;
  if (grid) throw Fault("emulation: launch inside a kernel");
  if (count == 0 || count > 1024) throw Fault(std::string(name) + ": block of " + std::to_string(count) + " threads");
  if (blocks == 0 || extent.y > 65535 || extent.z > 65535) throw Fault(std::string(name) + ": grid out of range");
  if (dynamic_bytes > settings().shared_limit)
    throw Fault(std::string(name) + ": " + std::to_string(dynamic_bytes) + " bytes of shared memory asked for, limit " +
                std::to_string(settings().shared_limit));
  Quiet quiet;
  const DeviceMemoryAccess access;
  Grid g;
  g.extent = extent, g.threads = threads, g.body = &body, g.random = settings().seed;
  grid = &g;
  struct Clear { ~Clear() { grid = nullptr, block = nullptr, self = nullptr; } } clear;
  for (auto& set : fiber_sets)
    if (set.size() < count) set.resize(count);
  if (race_detector()) scheduler.tsan = __tsan_get_current_fiber();
  release(&g.start);

  std::vector<uint32_t> order(blocks);
  for (size_t i = 0; i < blocks; ++i) order[i] = uint32_t(settings().order == Order::Descending ? blocks - 1 - i : i);
  if (settings().order == Order::Random)
    for (size_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[g.draw() % i]);

  for (uint32_t linear : order) {
    if (race_detector()) fiber_set = int(linear * 2654435761u >> 30);
    Arena arena;
    // On the heap: the detector forgets the barriers of a block, which it knows by address, when they are freed.
    const auto owned = std::make_unique<Block>();
    Block& b = *owned;
    b.index = {linear % extent.x, linear / extent.x % extent.y, linear / (extent.x * extent.y)};
    b.shared = arena.base, b.dynamic_bytes = dynamic_bytes;
    b.static_used = (dynamic_bytes + 127) & ~size_t(127);
    std::memset(arena.base, settings().poison, arena_bytes);
    if (__asan_poison_memory_region)
      __asan_poison_memory_region(arena.base + dynamic_bytes, arena_bytes - dynamic_bytes);
    b.threads.resize(count);
    b.warps.resize((count + 31) / 32), b.groups.resize((count + 127) / 128);
    for (size_t i = 0; i < count; ++i) {
      Thread& t = b.threads[i];
      t.index = int(i);
      t.position = {unsigned(i) % threads.x, unsigned(i) / threads.x % threads.y, unsigned(i) / (threads.x * threads.y)};
    }
    b.alive = int(count);
    b.load_engine = new_tsan_fiber(), b.read_engine = new_tsan_fiber();
    block = &b;
    run_block();
    free_tsan_fiber(b.load_engine), free_tsan_fiber(b.read_engine);
    if (!b.error.empty()) throw Fault(b.error);
  }
  acquire(&g.end);
}

const Index3& thread_index() { return self->position; }
const Index3& block_index() { return block->index; }
const Index3& block_extent() { return grid->threads; }
const Index3& grid_extent() { return grid->extent; }
unsigned linear_thread() { return unsigned(self->index); }

void* dynamic_shared(size_t bytes, size_t alignment, Site site) {
  if (bytes > block->dynamic_bytes)
    fault(site, "kernel uses " + std::to_string(bytes) + " bytes of dynamic shared memory, launched with " +
                    std::to_string(block->dynamic_bytes));
  if (alignment > 1024) fault(site, "shared memory aligned to more than 1024");
  return block->shared;
}

void* static_shared(size_t bytes, size_t alignment, Site site) {
  for (const StaticShared& s : block->statics)
    if (s.site.line == site.line && s.bytes == bytes && std::strcmp(s.site.file, site.file) == 0) return s.pointer;
  Quiet quiet;
  size_t at = (block->static_used + 32 + alignment - 1) & ~(alignment - 1);  // 32: a red zone
  if (at + bytes > arena_bytes) fault(site, "too much static shared memory");
  block->static_used = at + bytes;
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(block->shared + at, bytes);
  block->statics.push_back({site, bytes, block->shared + at});
  return block->shared + at;
}

uint32_t shared_offset(const void* pointer, size_t bytes, Site site) {
  const auto p = static_cast<const unsigned char*>(pointer);
  const bool dynamic = p >= block->shared && p + bytes <= block->shared + block->dynamic_bytes;
  bool ok = dynamic;
  for (const StaticShared& s : block->statics) ok = ok || (p >= s.pointer && p + bytes <= s.pointer + s.bytes);
  if (!ok) fault(site, "address is not in the block's shared memory");
  return uint32_t(p - block->shared);
}

void barrier(int id, int threads, bool wait, Site site) {
  if (id < 0 || id > 15) fault(site, "barrier " + std::to_string(id) + " out of 0..15");
  Barrier& b = block->barriers[id];
  const bool whole_block = threads == 0;
  if (!whole_block && threads % 32) fault(site, "named barrier for a thread count that is no multiple of 32");
  if (whole_block && block->alive != int(block->threads.size()) && !settings().allow_exited_at_barrier)
    fault(site, "__syncthreads after " + std::to_string(int(block->threads.size()) - block->alive) +
                    " threads of the block have returned");
  const int expected = whole_block ? block->alive : threads;
  if (b.arrived == 0) b.expected = expected, b.site = site;
  if (b.expected != expected) fault(site, "barrier used with two thread counts");
  if (whole_block && (b.site.line != site.line || std::strcmp(b.site.file, site.file) != 0))
    fault(site, "divergent __syncthreads: other threads of the block wait at " + std::string(b.site.file) + ":" +
                    std::to_string(b.site.line));
  release(&b.order[b.generation & 1]);
  void* order = &b.order[b.generation & 1];
  if (++b.arrived < b.expected) {
    if (!wait) return;
    {
      Quiet quiet;
      b.waiting.push_back(self);
    }
    self->state = State::Waiting, self->waits_for = whole_block ? "__syncthreads" : "a named barrier", self->site = site;
    suspend();
  } else {
    ++statistics().barriers;
    b.arrived = 0, ++b.generation;
    // Who opens the barrier goes to the back like all others, so that Order decides who runs first behind it.
    for (Thread* t : b.waiting) make_ready(t);
    b.waiting.clear();
    if (!wait) return;
    make_ready(self);
    suspend();
  }
  acquire(order);
}

void group_collective(detail::Collective* list, int lanes, int lane, uint32_t mask, CollectiveAction act, void* arg, const char* name,
                      bool orders_memory, Site site) {
  ++statistics().collectives;
  const uint32_t bit = lanes == 32 ? 1u << lane : 0;
  if (lanes == 32 && !(mask & bit)) fault(site, std::string(name) + ": the calling lane is not in its own mask");
  Collective* c = nullptr;
  for (int i = 0; i < 4 && !c; ++i)
    if (list[i].arrived && (list[i].mask & mask)) c = &list[i];
  for (int i = 0; i < 4 && !c; ++i)
    if (!list[i].arrived) c = &list[i], c->mask = mask, c->act = act, c->site = site, c->name = name;
  if (!c) fault(site, "more than four warp operations of one warp at once");
  if (c->mask != mask || c->act != act || c->site.line != site.line)
    fault(site, std::string("divergent warp: this lane is in ") + name + ", others of its mask wait in " + c->name + " at " +
                    c->site.file + ":" + std::to_string(c->site.line));
  if (lanes == 32) {
    const int first = self->index & ~31;
    for (int l = 0; l < 32; ++l)
      if (mask >> l & 1 && (size_t(first + l) >= block->threads.size() || block->threads[first + l].state == State::Done))
        fault(site, std::string(name) + ": lane " + std::to_string(l) + " of the mask has returned");
  }
  const int expected = lanes == 32 ? __builtin_popcount(mask) : lanes;
  c->args[lane] = arg;
  void* order = &c->order[c->generation & 1];
  if (orders_memory) release(order);
  if (++c->arrived < expected) {
    c->waiting[c->arrived - 1] = self;
    self->state = State::Waiting, self->waits_for = name, self->site = site;
    suspend();
  } else {
    act(c->args, mask);
    ++c->generation;
    const int n = c->arrived - 1;
    c->arrived = 0;
    for (int i = 0; i < n; ++i) make_ready(c->waiting[i]);
    for (void*& p : c->args) p = nullptr;
  }
  if (orders_memory) acquire(order);
}

void warp_collective(uint32_t mask, CollectiveAction act, void* arg, const char* name, bool orders_memory, Site site) {
  group_collective(block->warps[self->index / 32].collectives, 32, self->index & 31, mask, act, arg, name, orders_memory,
                   site);
}

// ---- what the warp operations do --------------------------------------------------------------------------------------
void shuffle_action(void* const* args, uint32_t mask) {
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) {
      Shuffle& s = *static_cast<Shuffle*>(args[l]);
      // The value of a lane outside the mask is undefined on the device: hand out poison.
      if (mask >> s.source & 1) s.result = static_cast<Shuffle*>(args[s.source])->value;
      else std::memset(&s.result, settings().poison, sizeof s.result);
    }
}
void ballot_action(void* const* args, uint32_t mask) {
  uint32_t r = 0;
  for (int l = 0; l < 32; ++l) if (mask >> l & 1 && static_cast<Vote*>(args[l])->value) r |= 1u << l;
  for (int l = 0; l < 32; ++l) if (mask >> l & 1) static_cast<Vote*>(args[l])->result = r;
}
void reduce_add_action(void* const* args, uint32_t mask) {
  int32_t r = 0;
  for (int l = 0; l < 32; ++l) if (mask >> l & 1) r += int32_t(static_cast<Vote*>(args[l])->value);
  for (int l = 0; l < 32; ++l) if (mask >> l & 1) static_cast<Vote*>(args[l])->result = r;
}
void reduce_max_action(void* const* args, uint32_t mask) {
  int64_t r = INT64_MIN;
  for (int l = 0; l < 32; ++l) if (mask >> l & 1) r = std::max(r, static_cast<Vote*>(args[l])->value);
  for (int l = 0; l < 32; ++l) if (mask >> l & 1) static_cast<Vote*>(args[l])->result = r;
}
void reduce_min_action(void* const* args, uint32_t mask) {
  int64_t r = INT64_MAX;
  for (int l = 0; l < 32; ++l) if (mask >> l & 1) r = std::min(r, static_cast<Vote*>(args[l])->value);
  for (int l = 0; l < 32; ++l) if (mask >> l & 1) static_cast<Vote*>(args[l])->result = r;
}

}  // namespace emu
