// ldmatrix, mma.sync and wgmma arithmetic. Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16" and
// "Register fragments and shared memory matrix layouts" of wgmma.
#include "cuda/emulation/runtime_detail.h"

#include "cuda/gpu/types.cuh"

namespace emu {
using namespace detail;

namespace {
inline float widen(uint16_t bits, bool bf16) {
  return bf16 ? gpu::to_float(gpu::bf16{bits}) : gpu::to_float(gpu::f16{bits});
}

void ldmatrix_action(void* const* lanes, uint32_t) {
  const auto* const* args = reinterpret_cast<const LdmatrixArgs* const*>(lanes);
  const int count = args[0]->matrices;
  for (int m = 0; m < count; ++m) {
    uint16_t tile[8][8];
    unsigned users[8] = {};
    for (int r = 0; r < 8; ++r) {
      const void* row = args[8 * m + r]->row;
      std::memcpy(tile[r], row, 16);
      ++users[(reinterpret_cast<uintptr_t>(row) >> 4) & 7];  // eight 16-byte columns of banks
    }
    unsigned worst = 0;
    for (unsigned u : users) worst = std::max(worst, u);
    statistics().ldmatrix_conflicts += worst - 1, ++statistics().ldmatrix;
    const bool t = args[0]->transposed;
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, k = l % 4 * 2;
      const uint16_t lo = t ? tile[k][g] : tile[g][k], hi = t ? tile[k + 1][g] : tile[g][k + 1];
      args[l]->out[m] = uint32_t(lo) | uint32_t(hi) << 16;
    }
  }
}

// C[16 mt][8 nt] += A[16 mt][16] B[16][8 nt], gathered from and scattered to the lanes' registers.
void mma_action(void* const* lanes, uint32_t) {
  const auto* const* args = reinterpret_cast<const MmaArgs* const*>(lanes);
  const int mt = args[0]->mt, nt = args[0]->nt, n = 8 * nt;
  const bool bf16 = args[0]->bf16;
  statistics().mma += uint64_t(mt) * nt;
  static float a[16 * 8][16], b[16][8 * 32], c[16 * 8][8 * 32];
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, t = l % 4 * 2;
    const MmaArgs& x = *args[l];
    for (int i = 0; i < mt; ++i)
      for (int r = 0; r < 4; ++r)
        for (int h = 0; h < 2; ++h)
          a[16 * i + g + (r & 1) * 8][t + h + (r >> 1) * 8] = widen(uint16_t(x.a[4 * i + r] >> 16 * h), bf16);
    for (int j = 0; j < nt; ++j) {
      for (int r = 0; r < 2; ++r)
        for (int h = 0; h < 2; ++h) b[t + h + r * 8][8 * j + g] = widen(uint16_t(x.b[2 * j + r] >> 16 * h), bf16);
      for (int i = 0; i < mt; ++i)
        for (int r = 0; r < 4; ++r) c[16 * i + g + (r >> 1) * 8][8 * j + t + (r & 1)] = x.acc[4 * (nt * i + j) + r];
    }
  }
  for (int i = 0; i < 16 * mt; ++i)
    for (int k = 0; k < 16; ++k) {
      const float v = a[i][k];
      for (int j = 0; j < n; ++j) c[i][j] += v * b[k][j];
    }
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, t = l % 4 * 2;
    for (int i = 0; i < mt; ++i)
      for (int j = 0; j < nt; ++j)
        for (int r = 0; r < 4; ++r)
          args[l]->acc[4 * (nt * i + j) + r] = c[16 * i + g + (r >> 1) * 8][8 * j + t + (r & 1)];
  }
}
}  // namespace

void ldmatrix(LdmatrixArgs& args, Site site) {
  const int lane = self->index & 31;
  if (lane < 8 * args.matrices) {
    if (shared_offset(args.row, 16, site) % 16) fault(site, "ldmatrix: row address is not a multiple of 16 bytes");
    saw_read(args.row, 16);
  }
  warp_collective(~0u, ldmatrix_action, &args, args.transposed ? "ldmatrix.trans" : "ldmatrix", false, site);
}

void mma(MmaArgs& args, Site site) {
  if (args.mt > 8 || args.nt > 32) fault(site, "mma: more than 8 x 32 tiles in one call");
  warp_collective(~0u, mma_action, &args, "mma.sync", false, site);
}

// ---- wgmma ----------------------------------------------------------------------------------------------------------
namespace {

// A shared-memory operand as its 64-bit descriptor says. Element (mn, k) of a tile with 16 columns of k.
struct Operand {
  uint32_t start, leading, stride;
  bool swizzled, mn_major;
  Operand(uint64_t d, bool mn_major)
      : start(uint32_t(d & 0x3fff) << 4), leading(uint32_t(d >> 16 & 0x3fff) << 4), stride(uint32_t(d >> 32 & 0x3fff) << 4),
        swizzled((d >> 62) == 1), mn_major(mn_major) {}
  uint32_t address(int mn, int k) const {
    uint32_t a;
    if (swizzled) {
      // K-major: 8 rows of 128 bytes per atom, next 8 rows `stride` further. MN-major: 8 columns of 64 elements per
      // atom, next 8 of k `stride` further, next 64 of mn `leading` further.
      a = mn_major ? start + (mn % 64) * 2 + (mn / 64) * leading + (k % 8) * 128 + (k / 8) * stride
                   : start + (mn % 8) * 128 + (mn / 8) * stride + k * 2;
      return a ^ (a >> 3 & 0x70);  // address bits 4..6 are xored with bits 7..9
    }
    // No swizzle: cores of 8 rows x 16 bytes.
    a = mn_major ? start + (mn % 8) * 2 + (mn / 8) * stride + (k % 8) * 16 + (k / 8) * leading
                 : start + (mn % 8) * 16 + (mn / 8) * stride + (k % 8) * 2 + (k / 8) * leading;
    return a;
  }
  uint16_t load(int mn, int k, Site site) const {
    const uint32_t a = address(mn, k);
    if (a + 2 > block->dynamic_bytes) fault(site, "wgmma reads outside of dynamic shared memory");
    saw_read(block->shared + a, 2);
    uint16_t v;
    std::memcpy(&v, block->shared + a, 2);
    return v;
  }
};

void run_wgmma(const std::vector<WgmmaOperation>& threads, Site site) {
  const WgmmaOperation& first = threads[0];
  const int n = first.n;
  static float a[64][16], b[16][256], c[64][256];
  ++statistics().wgmma;
  {
    AsEngine engine(block->read_engine);
    acquire(&block->proxy_fence);
    acquire(&block->loads);
    const Operand ob(first.descriptor_b, first.b_mn_major);
    for (int j = 0; j < n; ++j)
      for (int k = 0; k < 16; ++k) b[k][j] = widen(ob.load(j, k, site), first.bf16);
    if (!first.a) {
      const Operand oa(first.descriptor_a, first.a_mn_major);
      for (int i = 0; i < 64; ++i)
        for (int k = 0; k < 16; ++k) a[i][k] = widen(oa.load(i, k, site), first.bf16);
    }
    release(&block->reads);
  }
  for (int t = 0; t < 128; ++t) {
    const int row = t / 32 * 16 + t % 32 / 4, col = t % 4 * 2;
    const WgmmaOperation& x = threads[t];
    if (first.a)
      for (int r = 0; r < 4; ++r)
        for (int h = 0; h < 2; ++h)
          a[row + (r & 1) * 8][col + h + (r >> 1) * 8] = widen(uint16_t(x.a[r] >> 16 * h), first.bf16);
    for (int j = 0; j < n / 8; ++j)
      for (int r = 0; r < 4; ++r)
        c[row + (r >> 1) * 8][8 * j + col + (r & 1)] = first.accumulate ? x.accumulator[4 * j + r] : 0.0f;
  }
  for (int i = 0; i < 64; ++i)
    for (int k = 0; k < 16; ++k) {
      const float v = a[i][k];
      for (int j = 0; j < n; ++j) c[i][j] += v * b[k][j];
    }
  for (int t = 0; t < 128; ++t) {
    const int row = t / 32 * 16 + t % 32 / 4, col = t % 4 * 2;
    for (int j = 0; j < n / 8; ++j)
      for (int r = 0; r < 4; ++r) threads[t].accumulator[4 * j + r] = c[row + (r >> 1) * 8][8 * j + col + (r & 1)];
  }
}

WgmmaGroup& my_group() { return block->groups[self->index / 128]; }

void group_sync(CollectiveAction act, void* arg, const char* name, Site site) {
  if (block->threads.size() % 128) fault(site, std::string(name) + " in a block that is no whole number of warpgroups");
  group_collective(my_group().collectives, 128, self->index % 128, ~0u, act, arg, name, false, site);
}

struct WgmmaArgs {
  const WgmmaOperation* op;
  Site site;
};
void issue_action(void* const* args, uint32_t) {
  WgmmaGroup& g = my_group();
  Quiet quiet;
  WgmmaGroup::Pending p;
  const Site site = static_cast<WgmmaArgs*>(args[0])->site;
  for (int t = 0; t < 128; ++t) p.threads.push_back(*static_cast<WgmmaArgs*>(args[t])->op);
  for (const WgmmaOperation& o : p.threads)
    if (o.descriptor_b != p.threads[0].descriptor_b || (!o.a && o.descriptor_a != p.threads[0].descriptor_a) ||
        o.accumulate != p.threads[0].accumulate)
      fault(site, "wgmma: descriptors or scale-d differ within the warpgroup");
  if (!g.fenced) fault(site, "wgmma without wgmma.fence since the last commit");
  p.group = g.group;
  if (settings().async == Async::Eager) run_wgmma(p.threads, site);
  else g.pending.push_back(std::move(p));
}
void commit_action(void* const*, uint32_t) {
  WgmmaGroup& g = my_group();
  ++g.group, g.fenced = false;
}
struct WaitArgs {
  int in_flight;
  Site site;
};
void wait_action(void* const* args, uint32_t) {
  WgmmaGroup& g = my_group();
  const WaitArgs& w = *static_cast<WaitArgs*>(args[0]);
  while (!g.pending.empty() && g.pending.front().group < g.group - w.in_flight) {
    run_wgmma(g.pending.front().threads, w.site);
    Quiet quiet;
    g.pending.erase(g.pending.begin());
  }
}
}  // namespace

void wgmma_fence(Site site) {
  group_sync([](void* const*, uint32_t) { my_group().fenced = true; }, nullptr, "wgmma.fence", site);
}
void wgmma(const WgmmaOperation& op, Site site) {
  if (op.n < 8 || op.n > 256 || op.n % 8) fault(site, "wgmma: n must be 8..256 in steps of 8");
  WgmmaArgs args{&op, site};
  group_sync(issue_action, &args, "wgmma", site);
}
void wgmma_commit(Site site) { group_sync(commit_action, nullptr, "wgmma.commit_group", site); }
void wgmma_wait(int in_flight, Site site) {
  WaitArgs args{in_flight, site};
  group_sync(wait_action, &args, "wgmma.wait_group", site);
  acquire(&block->reads);
}

}  // namespace emu
