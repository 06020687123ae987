// Argument checks shared by the ops. Every failure is INVALID_ARGUMENT: `op: parameter must be …, got …`.
#pragma once
#include <initializer_list>

#include "core/error.h"
#include "core/tensor.h"
#include "ops/types.h"

namespace df::ops {

inline long long ll(int64_t v) { return static_cast<long long>(v); }  // for printf

/// Defined, not empty, one of `dtypes`, and of this rank (0: any rank of at least 1).
void check_tensor(const char* op, const char* parameter, const Tensor& t, int rank,
                  std::initializer_list<DType> dtypes);
/// What products and norms take: a dtype that the backend of the tensor's device computes in.
void check_activations(const char* op, const char* parameter, const Tensor& t, int rank);
/// A dtype to compute in on this device.
void check_compute_dtype(const char* op, DType dtype, Device device);
/// Exactly this shape and dtype, on this device.
void check_like(const char* op, const char* parameter, const Tensor& t, const Shape& shape, DType dtype, Device device);
/// Optional (C) float32 vectors: bias, gamma, beta.
void check_vector(const char* op, const char* parameter, const Tensor& t, int64_t size, Device device);
/// A weight that can multiply x: defined, on its device, for its dtype, with as many inputs as x has channels.
void check_weight(const char* op, const Tensor& x, const Weight& w);
/// Bias (O) and residual (like y) of a product with result `shape`.
void check_epilogue(const char* op, const Shape& shape, const Tensor& x, const Epilogue& e);
/// `into` if it is given and fits, else a new tensor.
Tensor result(const char* op, const Tensor& into, const Shape& shape, DType dtype, Device device);
/// `shape` with another last dimension.
Shape with_last(const Shape& shape, int64_t last);

}  // namespace df::ops
