// What the backward rules of the ops share. An op records when a gradient of one of its inputs is wanted, and saves only
// what its backward reads: the tensor itself, or a TensorRef where the gradient is only routed.
#pragma once
#include <initializer_list>

#include "autograd/tape.h"
#include "core/tensor.h"
#include "ops/types.h"

namespace df::ops {

/// The tape that records on this thread when it wants a gradient of one of `inputs` (undefined ones are ignored), or null.
Tape* recorder(std::initializer_list<const Tensor*> inputs);

/// Throws UNSUPPORTED when the gradient of an op that has no backward is wanted.
void refuse_gradient(const char* op, const Tensor& x);

/// Throws UNSUPPORTED when two of the inputs whose gradients one call writes are parts of each other.
void check_distinct(const char* op, std::initializer_list<const Tensor*> inputs);

/// Records y = (x·w + bias + residual) * scale, a linear layer (`p` null) or a convolution. Throws UNSUPPORTED for
/// convolutions that have no backward.
void record_product(const Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams* p, const Epilogue& e);

/// w itself, or its master packed for products in `dtype`.
Weight packed(const Weight& w, DType dtype);

}  // namespace df::ops
