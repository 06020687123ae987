// Kernels of the backward pass of attention (see kernels.h). Plain types only.
#pragma once
#include <stdint.h>

namespace df {

/// A gradient of some rows of one head; `into` null: not wanted; `add`: added to what is there.
struct HeadGradient {
  void* into;
  int64_t stride;
  int add;
};

/// One (batch, head). Strides are elements between rows.
struct AttentionBackwardProblem {
  const void *q, *dy;
  int64_t q_stride, dy_stride;
  const void* key[2];    ///< one or two runs of rows
  const void* value[2];
  int64_t key_stride[2], value_stride[2], run[2];
  int64_t queries, tokens, width;  ///< tokens = run[0] + run[1]
  float scale;
  const float* bias;     ///< (queries, tokens) or null
  int64_t bias_stride;
  const int32_t* mask;   ///< (tokens) or null; 0: ignored
  HeadGradient dq, dkey[2], dvalue[2];
  float* dbias;          ///< (queries, tokens) of this item, written; or null
};

struct AttentionBackwardKernels {
  /// Bytes of working memory for (queries, tokens, width).
  int64_t (*bytes[2])(const AttentionBackwardProblem*);
  /// memory: as many bytes, 64-byte aligned.
  void (*run[2])(const AttentionBackwardProblem*, char* memory);
};

}  // namespace df
