#include "core/first_fit.h"

#include <algorithm>
#include <iterator>

namespace df {

size_t FirstFit::place(size_t bytes) const {
  for (const auto& [offset, range] : free_)
    if (range.bytes >= bytes) return offset;
  // behind everything, together with a free range that lies there
  const auto last = free_.empty() ? free_.end() : std::prev(free_.end());
  return last != free_.end() && at_end(last) ? last->first : end_;
}

void FirstFit::take(size_t offset, size_t bytes) {
  const auto range = free_.find(offset);
  Range rest;
  if (range != free_.end()) {
    rest = range->second;
    used_ -= rest.used;
    free_.erase(range);
  }
  if (rest.bytes <= bytes) {
    end_ = std::max(end_, offset + bytes);
    return;
  }
  rest.bytes -= bytes;
  rest.used = std::min(rest.used, rest.bytes);  // which of them were is not known
  used_ += rest.used;
  free_.emplace(offset + bytes, rest);
}

void FirstFit::free(size_t offset, size_t bytes) {
  Range range{bytes, bytes};
  used_ += bytes;
  const auto merge = [&](std::map<size_t, Range>::iterator neighbour) {
    range.bytes += neighbour->second.bytes;
    range.used += neighbour->second.used;
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

void FirstFit::trim() {
  for (auto& [offset, range] : free_) range.used = 0;
  used_ = 0;
  if (free_.empty() || !at_end(std::prev(free_.end()))) return;
  end_ = std::prev(free_.end())->first;
  free_.erase(std::prev(free_.end()));
}

}  // namespace df
