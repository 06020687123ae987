// Copies that finish later: cp.async, mbarriers and the bulk tensor copy (TMA).
// A copy's target is poisoned when it is issued and filled as late as Settings::async allows, so that a kernel that
// reads without waiting computes with poison.
#include "cuda/emulation/runtime_detail.h"

namespace emu {
using namespace detail;

namespace detail {

static void finish(Thread::Copy& c) {
  if (c.valid) {
    saw_read(c.global, size_t(c.bytes));
    std::memcpy(c.shared, c.global, size_t(c.bytes));
  } else {
    std::memset(c.shared, 0, size_t(c.bytes));
  }
  saw_write(c.shared, size_t(c.bytes));
}

void on_thread_exit() {
  for (auto& c : self->copies) finish(c);
  {
    Quiet quiet;
    self->copies.clear();
  }
  --block->alive;
  Barrier& b = block->barriers[0];
  if (b.arrived && b.expected > block->alive) {
    if (!settings().allow_exited_at_barrier)
      fault(b.site, "this thread returned while others wait in this __syncthreads");
    b.expected = block->alive;
    if (b.arrived == b.expected) {
      b.arrived = 0, ++b.generation;
      for (Thread* t : b.waiting) make_ready(t);
      b.waiting.clear();
    }
  }
}

// ---- mbarrier: one 64-bit word, as on the device. Ours: phase 63 | bytes 40..61 | count 20..39 | pending 0..19 ------
struct Phase {
  uint64_t pending : 20, count : 20, bytes : 22, unused : 1, phase : 1;
};
static_assert(sizeof(Phase) == 8);

static Phase get(const uint64_t* bar) {
  Phase p;
  std::memcpy(&p, bar, 8);
  return p;
}
static void put(uint64_t* bar, Phase p) {
  if (p.pending == 0 && p.bytes == 0) {  // the phase is complete
    p.pending = p.count, p.phase ^= 1;
    std::memcpy(bar, &p, 8);
    auto& w = block->mbarrier_waiters;
    for (size_t i = 0; i < w.size();)
      if (w[i].bar == bar && w[i].parity != p.phase) {
        make_ready(w[i].thread);
        w[i] = w.back(), w.pop_back();
      } else {
        ++i;
      }
  }
  std::memcpy(bar, &p, 8);
}

static void check_initialised(uint64_t* bar, Site site) {
  if (std::find(block->mbarriers.begin(), block->mbarriers.end(), bar) == block->mbarriers.end())
    fault(site, "mbarrier was not initialised");
}

bool run_one_copy() {
  if (block->copies.empty()) return false;
  const size_t i = settings().async == Async::Random ? size_t(grid->draw() % block->copies.size()) : 0;
  const BulkCopy c = block->copies[i];
  {
    Quiet quiet;
    block->copies.erase(block->copies.begin() + ptrdiff_t(i));
  }
  const TensorMap& m = c.map;
  AsEngine engine(block->load_engine);
  // Box elements in order, fastest dimension first. What lies outside of the tensor arrives as zeros.
  const uint32_t row_bytes = uint32_t(m.box[0]) * m.element_bytes;
  uint32_t rows = 1;
  for (int d = 1; d < m.rank; ++d) rows *= m.box[d];
  const uint32_t target = uint32_t(c.shared - block->shared);
  for (uint32_t row = 0; row < rows; ++row) {
    const unsigned char* source = static_cast<const unsigned char*>(m.base);
    bool inside = true;
    uint32_t rest = row;
    for (int d = 1; d < m.rank; ++d) {
      const int64_t at = int64_t(c.coordinates[d]) + rest % m.box[d];
      rest /= m.box[d];
      inside = inside && at >= 0 && uint64_t(at) < m.extent[d];
      source += at * int64_t(m.stride[d]);
    }
    for (uint32_t e = 0; e < m.box[0]; ++e) {
      const int64_t at = int64_t(c.coordinates[0]) + e;
      uint32_t to = target + row * row_bytes + e * m.element_bytes;
      if (m.swizzle_bytes) to ^= to >> 3 & 0x70;
      if (inside && at >= 0 && uint64_t(at) < m.extent[0]) {
        const unsigned char* from = source + at * m.element_bytes;
        saw_read(from, m.element_bytes);
        std::memcpy(block->shared + to, from, m.element_bytes);
      } else {
        std::memset(block->shared + to, 0, m.element_bytes);
      }
    }
  }
  saw_write(c.shared, size_t(rows) * row_bytes);
  release(&block->loads);
  release(c.bar);
  Phase p = get(c.bar);
  if (p.bytes < rows * row_bytes) fault(c.site, "bulk copy brought more bytes than its mbarrier expects");
  p.bytes -= rows * row_bytes;
  put(c.bar, p);
  return true;
}

}  // namespace detail

// ---- cp.async ---------------------------------------------------------------------------------------------------------
void cp_async(void* shared, const void* global, int bytes, bool valid, Site site) {
  if (shared_offset(shared, size_t(bytes), site) % uint32_t(bytes)) fault(site, "cp.async: shared address not aligned");
  if (reinterpret_cast<uintptr_t>(global) % uintptr_t(bytes)) fault(site, "cp.async: global address not aligned");
  Thread::Copy c{shared, global, bytes, valid, self->copy_group};
  saw_write(shared, size_t(bytes));
  if (settings().async == Async::Eager || (settings().async == Async::Random && grid->draw() % 2)) {
    finish(c);
  } else {
    Quiet quiet;
    std::memset(shared, settings().poison, size_t(bytes));
    self->copies.push_back(c);
  }
}
void cp_async_commit() { ++self->copy_group; }
void cp_async_wait(int groups_in_flight, Site) {
  auto& v = self->copies;
  size_t done = 0;
  while (done < v.size() && v[done].group < self->copy_group - groups_in_flight) finish(v[done++]);
  Quiet quiet;
  v.erase(v.begin(), v.begin() + ptrdiff_t(done));
}

// ---- mbarrier ---------------------------------------------------------------------------------------------------------
void mbarrier_init(uint64_t* bar, uint32_t arrivals, Site site) {
  shared_offset(bar, 8, site);
  Phase p{};
  p.pending = p.count = arrivals;
  std::memcpy(bar, &p, 8);
  Quiet quiet;
  block->mbarriers.push_back(bar);
}
void mbarrier_arrive(uint64_t* bar, uint32_t expected_bytes, Site site) {
  check_initialised(bar, site);
  release(bar);
  Phase p = get(bar);
  if (p.pending == 0) fault(site, "mbarrier: more arrivals than it was initialised for");
  p.bytes += expected_bytes, p.pending -= 1;
  put(bar, p);
}
void mbarrier_wait(uint64_t* bar, uint32_t parity, Site site) {
  check_initialised(bar, site);
  if (get(bar).phase == (parity & 1)) {  // the phase of this parity is still under way
    {
      Quiet quiet;
      block->mbarrier_waiters.push_back({bar, parity & 1, self});
    }
    self->state = State::Waiting, self->waits_for = "an mbarrier", self->site = site;
    suspend();
  }
  acquire(bar);
}
void fence_proxy_async() { release(&block->proxy_fence); }

// ---- TMA --------------------------------------------------------------------------------------------------------------
void tma_load(void* shared, const TensorMap* map, uint64_t* bar, const int* coordinates, int rank, Site site) {
  check_initialised(bar, site);
  if (map->rank != rank) fault(site, "tensor map has another rank");
  size_t bytes = map->element_bytes;
  for (int d = 0; d < rank; ++d) bytes *= map->box[d];
  const uint32_t offset = shared_offset(shared, bytes, site);
  if (offset % (map->swizzle_bytes ? 1024 : 128)) fault(site, "bulk copy: target not aligned (1024 with the 128-byte swizzle)");
  BulkCopy c{*map, {}, static_cast<unsigned char*>(shared), bar, site};
  for (int d = 0; d < rank; ++d) c.coordinates[d] = coordinates[d];
  ++statistics().tma_loads;
  release(&block->loads);
  {
    AsEngine engine(block->load_engine);
    acquire(&block->loads);
    saw_write(shared, bytes);
  }
  {
    Quiet quiet;
    std::memset(shared, settings().poison, bytes);
    block->copies.push_back(c);
  }
  if (settings().async == Async::Eager) run_one_copy();
}

}  // namespace emu
