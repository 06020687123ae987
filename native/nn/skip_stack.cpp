#include "nn/skip_stack.h"

#include "autograd/tape.h"
#include "ops/ops.h"

namespace df {

SkipStack::SkipStack(const std::vector<int64_t>& hidden_channels)
    : hidden_channels_(hidden_channels), in_place_(Tape::current() != nullptr) {}

Tensor SkipStack::push(int64_t n, int64_t height, int64_t width, int64_t channels, DType dtype, Device device) {
  const int64_t left = in_place_ ? hidden_channels_[skips_.size()] : 0;
  skips_.push_back(Tensor::empty({n, height, width, left + channels}, dtype, device));
  return skips_.back().slice_last(left, channels);
}

Tensor SkipStack::hidden() {
  const int64_t left = hidden_channels_[skips_.size() - 1];
  if (in_place_) return skips_.back().slice_last(0, left);
  Tensor& skip = skips_.back();
  const int64_t channels = skip.dim(3);
  joined_ = Tensor::empty({skip.dim(0), skip.dim(1), skip.dim(2), left + channels}, skip.dtype(), skip.device());
  ops::copy(skip, skip.dtype(), joined_.slice_last(left, channels));
  skip = Tensor();
  return joined_.slice_last(0, left);
}

Tensor SkipStack::pop() {
  Tensor joined = std::move(in_place_ ? skips_.back() : joined_);
  skips_.pop_back();
  return joined;
}

}  // namespace df
