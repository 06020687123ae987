#include "nn/skip_stack.h"

namespace df {

SkipStack::SkipStack(const std::vector<int64_t>& hidden_channels) : hidden_channels_(hidden_channels) {}

Tensor SkipStack::push(int64_t n, int64_t height, int64_t width, int64_t channels, DType dtype, Device device) {
  const int64_t hidden = hidden_channels_[wide_.size()];
  wide_.push_back(Tensor::empty({n, height, width, hidden + channels}, dtype, device));
  return wide_.back().slice_last(hidden, channels);
}

Tensor SkipStack::hidden() const { return wide_.back().slice_last(0, hidden_channels_[wide_.size() - 1]); }

Tensor SkipStack::pop() {
  Tensor wide = std::move(wide_.back());
  wide_.pop_back();
  return wide;
}

}  // namespace df
