// The skip connections of a UNet. Every skip is written into the right part of a buffer as wide as the concatenation
// [hidden, skip] that an up block reads later, and what comes up is written into the left part: nothing is copied.
#pragma once
#include <vector>

#include "core/tensor.h"

namespace df {

class SkipStack {
 public:
  /// `hidden_channels`: for every skip in the order of `push`, the channels that come up and go to its left.
  explicit SkipStack(const std::vector<int64_t>& hidden_channels);
  /// Where to write the next skip (N, H, W, channels).
  Tensor push(int64_t n, int64_t height, int64_t width, int64_t channels, DType dtype, Device device);
  /// Where to write the hidden states that will be concatenated with the newest skip.
  Tensor hidden() const;
  /// Removes the newest skip: the whole concatenation (N, H, W, hidden + skip channels).
  Tensor pop();

 private:
  const std::vector<int64_t>& hidden_channels_;
  std::vector<Tensor> wide_;
};

}  // namespace df
