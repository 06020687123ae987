#include "core/shape.h"

#include "core/error.h"

namespace df {

Shape::Shape(std::initializer_list<int64_t> dims) {
  for (int64_t d : dims) push_back(d);
}

void Shape::push_back(int64_t dim) {
  DF_CHECK(rank_ < kMaxRank, "shape: at most %d dimensions are supported", kMaxRank);
  DF_CHECK(dim >= 0, "shape: a dimension must not be negative, got %lld", static_cast<long long>(dim));
  dims_[rank_++] = dim;
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; i++) n *= dims_[i];
  return n;
}

int64_t Shape::rows() const {
  int64_t n = 1;
  for (int i = 0; i + 1 < rank_; i++) n *= dims_[i];
  return n;
}

bool Shape::operator==(const Shape& o) const {
  if (rank_ != o.rank_) return false;
  for (int i = 0; i < rank_; i++)
    if (dims_[i] != o.dims_[i]) return false;
  return true;
}

std::string Shape::str() const {
  std::string s = "(";
  for (int i = 0; i < rank_; i++) {
    if (i) s += ", ";
    s += std::to_string(dims_[i]);
  }
  return s + (rank_ == 1 ? ",)" : ")");
}

}  // namespace df
