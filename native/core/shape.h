#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>

namespace df {

/// Up to five dimensions, row-major, the last one fastest. Images are (N, H, W, C), tokens (N, L, C), weights (O, H, W, I).
class Shape {
 public:
  static constexpr int kMaxRank = 5;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);

  int rank() const { return rank_; }
  /// Dimension i; negative counts from the end (-1 is the last).
  int64_t operator[](int i) const { return dims_[i < 0 ? rank_ + i : i]; }
  void set(int i, int64_t v) { dims_[i < 0 ? rank_ + i : i] = v; }
  /// Appends a dimension. Throws INVALID_ARGUMENT beyond kMaxRank or for a negative size.
  void push_back(int64_t dim);
  int64_t numel() const;
  /// Product of all dimensions but the last: the number of rows.
  int64_t rows() const;
  bool operator==(const Shape& o) const;
  bool operator!=(const Shape& o) const { return !(*this == o); }
  /// "(2, 64, 64, 320)".
  std::string str() const;

 private:
  int rank_ = 0;
  int64_t dims_[kMaxRank] = {};
};

}  // namespace df
