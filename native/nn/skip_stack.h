// The skip connections of a UNet. An up block reads a concatenation [hidden, skip] as one buffer, whose left part is
// written by what comes up. The right part is a copy of the skip, so that the left parts of all levels need no memory
// before they are due (a fifth of the activations of IF-II-L, for 0.2 % of its time); while a tape records, everything
// is kept anyway, and the skip is written into its place at once.
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
  /// Where to write the hidden states that will be concatenated with the newest skip, which is complete.
  Tensor hidden();
  /// Removes the newest skip: the whole concatenation (N, H, W, hidden + skip channels), after `hidden`.
  Tensor pop();

 private:
  const std::vector<int64_t>& hidden_channels_;
  const bool in_place_;
  std::vector<Tensor> skips_;  // concatenations, when in place
  Tensor joined_;              // of the newest skip, else
};

}  // namespace df
