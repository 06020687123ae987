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

void* Arena::allocate(size_t bytes) {
  const size_t size = round_up(bytes, kPage);
  if (size < bytes || size > kMostReserved) return nullptr;
  const size_t offset = places_.place(size);
  if (!make_usable(offset + size)) return nullptr;
  places_.take(offset, size);
  return base_ + offset;
}

void Arena::free(void* block, size_t bytes) {
  places_.free(size_t(static_cast<char*>(block) - base_), round_up(bytes, kPage));
}

void Arena::release() {
  // all of them, used or not: a huge page may reach from a block into free places, and behind the end
  const auto drop = [&](size_t begin, size_t end) {
    const size_t first = round_up(begin, system_page()), last = end / system_page() * system_page();
    if (first < last) ::madvise(base_ + first, last - first, MADV_DONTNEED);
  };
  for (const auto& [offset, range] : places_.ranges()) drop(offset, offset + range.bytes);
  drop(places_.end(), std::min(usable_, round_up(places_.end(), kHuge)));
  places_.trim();
}

}  // namespace df
