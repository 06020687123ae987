// The allocator of large blocks: places are reused and merged, blocks never overlap, pages go back.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/arena.h"
#include "harness.h"

namespace df::test {
namespace {

constexpr size_t kPage = Arena::kPage, kMiB = size_t(1) << 20;

// Pages of [p, p + bytes) that are in memory.
size_t resident_pages(void* p, size_t bytes) {
  std::vector<unsigned char> pages(bytes / kPage);
  CHECK(::mincore(p, bytes, pages.data()) == 0);
  size_t count = 0;
  for (const unsigned char page : pages) count += page & 1;
  return count;
}

const Registration arenas([](Suite& suite) {
  suite.add("arena takes the lowest place and merges neighbours", [] {
    Arena arena;
    char* a = static_cast<char*>(arena.allocate(3 * kPage));
    char* b = static_cast<char*>(arena.allocate(kPage + 1));  // two pages
    char* c = static_cast<char*>(arena.allocate(kPage));
    CHECK(reinterpret_cast<uintptr_t>(a) % kPage == 0 && b == a + 3 * kPage && c == b + 2 * kPage);
    arena.free(a, 3 * kPage);
    CHECK(arena.cached() == 3 * kPage);
    CHECK(arena.allocate(kPage) == a && arena.cached() == 2 * kPage);
    arena.free(b, kPage + 1);  // a hole of 2 + 2 pages
    CHECK(arena.allocate(4 * kPage) == a + kPage && arena.cached() == 0);
    arena.free(c, kPage);      // the last place grows
    CHECK(arena.allocate(100 * kPage) == c && arena.cached() == 0);
    CHECK(arena.allocate(kPage) == c + 100 * kPage);
  });
  suite.add("arena gives pages back", [] {
    Arena arena;
    const size_t bytes = 8 * kMiB;
    void* kept = arena.allocate(bytes);
    void* freed = arena.allocate(bytes);
    void* behind = arena.allocate(bytes);
    for (void* block : {kept, freed, behind}) std::memset(block, 7, bytes);
    arena.free(freed, bytes);
    CHECK(arena.cached() == bytes && resident_pages(freed, bytes) == bytes / kPage);
    arena.release();
    CHECK(arena.cached() == 0 && resident_pages(freed, bytes) == 0);
    CHECK(resident_pages(kept, bytes) == bytes / kPage && resident_pages(behind, bytes) == bytes / kPage);
    CHECK(arena.allocate(bytes) == freed && static_cast<char*>(freed)[0] == 0);
    arena.free(behind, bytes);
    arena.release();  // the end moves down
    CHECK(resident_pages(behind, bytes) == 0 && arena.allocate(2 * bytes) == behind);
  });
  suite.add("arena blocks keep their bytes", [] {
    struct Block {
      unsigned char* data;
      size_t bytes;
      unsigned char value;
    };
    Arena arena;
    std::mt19937 random(1);
    std::vector<Block> live;
    size_t sum = 0;
    const auto drop = [&](size_t i) {
      const Block block = live[i];
      for (size_t at = 0; at < block.bytes; at += 97) CHECK(block.data[at] == block.value);
      CHECK(block.data[block.bytes - 1] == block.value);
      arena.free(block.data, block.bytes);
      sum -= block.bytes;
      live.erase(live.begin() + std::ptrdiff_t(i));
    };
    for (int i = 0; i < 3000; i++) {
      if (live.size() > 60 || (!live.empty() && random() % 2)) drop(random() % live.size());
      const size_t bytes = 1 + random() % (200 * kPage);
      auto* data = static_cast<unsigned char*>(arena.allocate(bytes));
      CHECK(data);
      const auto value = static_cast<unsigned char>(random());
      std::memset(data, value, bytes);
      live.push_back({data, bytes, value});
      sum += bytes;
      if (random() % 100 == 0) arena.release();
    }
    while (!live.empty()) drop(live.size() - 1);
    CHECK(sum == 0);
    arena.release();
    void* all = arena.allocate(60 * 200 * kPage);  // nothing is left in the way
    CHECK(all && resident_pages(all, 60 * 200 * kPage) == 0);
  });
  suite.add("arena refuses what the system cannot give", [] {
    Arena arena;
    CHECK(arena.allocate(size_t(1) << 50) == nullptr && arena.allocate(SIZE_MAX) == nullptr);
    CHECK(arena.allocate(kPage) != nullptr);
  });
});

}  // namespace
}  // namespace df::test
