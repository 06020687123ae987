// The levels of the UNet (diffusers unet_2d_blocks.py: ResnetDownsampleBlock2D, SimpleCrossAttnDownBlock2D,
// UNetMidBlock2DSimpleCrossAttn, ResnetUpsampleBlock2D, SimpleCrossAttnUpBlock2D). Children have diffusers' names.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "nn/attention_block.h"
#include "nn/recorded_forward.h"
#include "nn/resnet_block.h"
#include "nn/skip_stack.h"
#include "nn/unet_config.h"

namespace df {

/// Sees the output of every module, by its diffusers name, NHWC; for comparing networks.
using Tap = std::function<void(const std::string& module, const Tensor& output)>;

/// What depends on the text alone: computed once per picture by UNet::prepare.
struct Conditioning {
  Tensor pooled;               ///< (B, time_embedding_dim), added to the embedding of every step
  std::vector<KeyValue> text;  ///< keys and values of every attention block, by AttentionBlock::index
  std::shared_ptr<RecordedForward> steps = std::make_shared<RecordedForward>();  ///< for the steps of the picture
  int64_t batch() const { return pooled.dim(0); }
};

/// What all blocks of one forward pass read.
struct BlockInputs {
  const Tensor& embedding;  ///< (B, time_embedding_dim), activated unless resnet_skip_time_act
  const Conditioning& cond;
  const Tap& tap;
  bool checkpointing = false;  ///< see checkpoint in autograd/tape.h
};

class DownBlock {
 public:
  /// Level `level` of the config. Takes indices of its attention blocks from `attention_count`.
  DownBlock(ParameterStore& p, const UNetConfig& config, int level, int& attention_count);
  /// x (B, H, W, in) → the last skip, (B, H/2, W/2, out), or (B, H, W, out) on the last level; pushes all its skips.
  Tensor forward(Tensor x, const BlockInputs& in, SkipStack& skips) const;
  const std::vector<AttentionBlock>& attentions() const { return attentions_; }

 private:
  int64_t out_channels_;
  std::vector<ResnetBlock> resnets_;
  std::vector<AttentionBlock> attentions_;
  std::optional<ResnetBlock> downsampler_;
};

class MidBlock {
 public:
  MidBlock(ParameterStore& p, const UNetConfig& config, int& attention_count);
  /// x (B, H, W, C) → the same shape, written into `into`.
  Tensor forward(Tensor x, const BlockInputs& in, const Tensor& into) const;
  const AttentionBlock& attention() const { return attention_; }

 private:
  ResnetBlock resnet_0_;
  AttentionBlock attention_;
  ResnetBlock resnet_1_;
};

class UpBlock {
 public:
  /// Up block `index` (0 is the coarsest) serves level levels - 1 - index. `hidden_channels` gets, from the back, the
  /// channels that each of its resnets expects beside its skip.
  UpBlock(ParameterStore& p, const UNetConfig& config, int index, int& attention_count,
          std::vector<int64_t>& hidden_channels);
  /// Reads [hidden, skip] from `skips`, where the block before has written; writes its result to the next skip's left,
  /// or returns it as the last block. (B, H, W, …) → (B, 2H, 2W, out), or (B, H, W, out) for the last block.
  Tensor forward(const BlockInputs& in, SkipStack& skips) const;
  const std::vector<AttentionBlock>& attentions() const { return attentions_; }

 private:
  std::vector<ResnetBlock> resnets_;
  std::vector<AttentionBlock> attentions_;
  std::optional<ResnetBlock> upsampler_;
};

/// Calls the tap, if there is one, and passes the tensor on.
Tensor tapped(const Tap& tap, const std::string& module, Tensor output);

}  // namespace df
