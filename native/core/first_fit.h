// Places in a range of addresses, given out by first fit. Freed neighbours merge and any later block may take their place,
// so that the tensors of a UNet, which change size at every level, need hardly more than the largest sum of live ones (one
// size class per block needed 1.9 times as much for IF-II-L).
#pragma once
#include <cstddef>
#include <map>

namespace df {

/// Offsets in bytes, from 0 on, without a limit; the caller rounds sizes. Not thread-safe.
class FirstFit {
 public:
  struct Range {
    size_t bytes = 0;
    size_t used = 0;  ///< about so many of them were in a block before
  };

  /// The lowest free place for so many bytes; it may reach behind end().
  size_t place(size_t bytes) const;
  /// Makes a block of what `place` just gave.
  void take(size_t offset, size_t bytes);
  void free(size_t offset, size_t bytes);
  /// Forgets the free range before end(), which moves down, and that free ranges were used.
  void trim();

  /// Behind the last block or free range.
  size_t end() const { return end_; }
  /// Sum of `used` of the free ranges.
  size_t used() const { return used_; }
  /// Offset → free range; no two touch each other.
  const std::map<size_t, Range>& ranges() const { return free_; }

 private:
  bool at_end(std::map<size_t, Range>::const_iterator range) const {
    return range->first + range->second.bytes == end_;
  }
  std::map<size_t, Range> free_;
  size_t end_ = 0, used_ = 0;
};

}  // namespace df
