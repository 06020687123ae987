// Kernels of the elementwise gradients, over n contiguous values. With `add` a result is added to what is there, in
// fp32. Plain types only, see kernels.h; type indices are those of DType.
#pragma once
#include <stdint.h>

namespace df {

struct ElementwiseBackwardKernels {
  /// dx = dy * activation'(x).
  void (*activation[2])(void* dx, int add, const void* dy, const void* x, int64_t n, int kind);
  /// dgate = dy * up * activation'(gate), dup = dy * activation(gate); either may be null.
  void (*gated_activation[2])(void* dgate, int add_gate, void* dup, int add_up, const void* dy, const void* gate,
                              const void* up, int64_t n, int kind);
  /// dx = a * dy. [type of dx][of dy]
  void (*scale[2][2])(void* dx, int add, float a, const void* dy, int64_t n);
  /// dx = dy0 + dy1 + dy2 + dy3.
  void (*sum4[2])(void* dx, int add, const void* const* dy, int64_t n);
};

}  // namespace df
