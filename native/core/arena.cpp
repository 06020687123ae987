#include "core/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace df {
namespace {

constexpr size_t kHuge = size_t(2) << 20;
// Addresses only: they cost nothing until they are used. Halved while the system refuses (ulimit -v).
constexpr size_t kMostReserved = size_t(1) << 40, kFewestReserved = size_t(1) << 30;
// Made usable at once, to save system calls.
constexpr size_t kStep = size_t(64) << 20;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// May be larger than the granularity of the arena, e.g. 64 KiB on ARM.
size_t system_page() {
  static const size_t page = size_t(::sysconf(_SC_PAGESIZE));
  return page;
}

}  // namespace

Arena::~Arena() {
  if (reservation_) ::munmap(reservation_, reservation_bytes_);
}

bool Arena::reserve() {
  if (base_) return true;
  for (size_t bytes = kMostReserved; bytes >= kFewestReserved; bytes /= 2) {
    void* p = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) continue;
    reservation_ = static_cast<char*>(p);
    reservation_bytes_ = bytes;
    const size_t skip = round_up(reinterpret_cast<size_t>(p), kHuge) - reinterpret_cast<size_t>(p);
    base_ = reservation_ + skip;
    capacity_ = (bytes - skip) / kHuge * kHuge;
#if defined(MADV_HUGEPAGE)
    ::madvise(base_, capacity_, MADV_HUGEPAGE);
#endif
    return true;
  }
  return false;
}

bool Arena::make_usable(size_t end) {
  if (end <= usable_) return true;
  if (!reserve() || end > capacity_) return false;
  for (const size_t to : {std::min(capacity_, round_up(end, kStep)), round_up(end, system_page())}) {
    if (::mprotect(base_ + usable_, to - usable_, PROT_READ | PROT_WRITE) != 0) continue;
    usable_ = to;
    return true;
  }
  return false;
}

// The first `bytes` of a free range; returns their offset.
size_t Arena::take(std::map<size_t, Range>::iterator range, size_t bytes) {
  const size_t offset = range->first;
  Range rest = range->second;
  cached_ -= rest.resident;
  rest.bytes -= bytes;
  rest.resident = std::min(rest.resident, rest.bytes);  // where its pages are is not known
  cached_ += rest.resident;
  free_.erase(range);
  if (rest.bytes) free_.emplace(offset + bytes, rest);
  return offset;
}

void* Arena::allocate(size_t bytes) {
  const size_t size = round_up(bytes, kPage);
  if (size < bytes || size > kMostReserved) return nullptr;
  for (auto range = free_.begin(); range != free_.end(); ++range)
    if (range->second.bytes >= size) return base_ + take(range, size);
  // behind everything, together with a free range that lies there
  const auto last = free_.empty() ? free_.end() : std::prev(free_.end());
  const bool extend = last != free_.end() && last->first + last->second.bytes == end_;
  const size_t start = extend ? last->first : end_;
  if (!make_usable(start + size)) return nullptr;
  if (extend) {
    last->second.bytes = size;
    take(last, size);
  }
  end_ = start + size;
  return base_ + start;
}

void Arena::free(void* block, size_t bytes) {
  size_t offset = size_t(static_cast<char*>(block) - base_);
  Range range{round_up(bytes, kPage), round_up(bytes, kPage)};
  cached_ += range.resident;
  const auto merge = [&](std::map<size_t, Range>::iterator neighbour) {
    range.bytes += neighbour->second.bytes;
    range.resident += neighbour->second.resident;
    return free_.erase(neighbour);
  };
  auto next = free_.lower_bound(offset);
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second.bytes == offset) {
      offset = before->first;
      next = merge(before);
    }
  }
  if (next != free_.end() && next->first == offset + range.bytes) merge(next);
  free_.emplace(offset, range);
}

void Arena::release() {
  // whatever `resident` says: a huge page may reach from a block into free places, and behind the end
  const auto drop = [&](size_t begin, size_t end) {
    const size_t first = round_up(begin, system_page()), last = end / system_page() * system_page();
    if (first < last) ::madvise(base_ + first, last - first, MADV_DONTNEED);
  };
  for (auto& [offset, range] : free_) {
    drop(offset, offset + range.bytes);
    range.resident = 0;
  }
  drop(end_, std::min(usable_, round_up(end_, kHuge)));
  cached_ = 0;
  if (!free_.empty() && std::prev(free_.end())->first + std::prev(free_.end())->second.bytes == end_) {
    end_ = std::prev(free_.end())->first;
    free_.erase(std::prev(free_.end()));
  }
}

}  // namespace df
