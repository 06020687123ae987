// The backward rule of linear and conv2d: dx = dy·wᵀ (a convolution with mirrored taps), dw = Σ dy ⊗ x, db = Σ dy.
#include "core/error.h"
#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/recording.h"

namespace df::ops {
namespace {

struct Product {
  TensorRef x;
  Tensor x_values;      // undefined unless dw is wanted
  Weight w;
  Conv2dParams p;
  bool convolution = false;
  Tensor bias;
  TensorRef residual;
  float scale = 1;
  double flops = 0;
};

Tensor plain_weight(Backend& backend, const Weight& w, const Shape& shape) {
  if (w.master.defined()) return w.master.reshape(shape);
  Tensor plain = Tensor::empty(shape, w.int8() ? DType::F32 : w.dtype, w.data.device());
  backend.unpack(plain, w);
  return plain;
}

// Of the plain weight and its gradient.
Shape weight_shape(const Product& f) {
  return f.convolution ? Shape{f.w.out, f.w.kernel_h, f.w.kernel_w, f.w.in} : Shape{f.w.out, f.w.in};
}

void multiply(Backend& backend, Tensor y, const Tensor& dy, const Weight& transposed, const Product& f,
              const Epilogue& e) {
  begin_op(f.flops);
  if (!f.convolution) return backend.linear(y, dy, transposed, e);
  const Conv2dParams p{.stride = 1, .padding = int(f.w.kernel_h) - 1 - f.p.padding, .algorithm = f.p.algorithm};
  backend.conv2d(y, dy, transposed, p, e);
}

void input_gradient(Backend& backend, const Gradient& dx, const Tensor& dy, const Product& f) {
  const Weight transposed = backend.pack_transposed(plain_weight(backend, f.w, weight_shape(f)), dy.dtype());
  if (dx.add && f.scale != 1) {  // the epilogue would scale what is there as well
    const Tensor product = Tensor::empty(dx.into.shape(), dx.into.dtype(), dx.into.device());
    multiply(backend, product, dy, transposed, f, {});
    backend.scale_backward(dx, f.scale, product);
  } else {
    multiply(backend, dx.into, dy, transposed, f, {.bias = {}, .residual = dx.add ? dx.into : Tensor(), .scale = f.scale});
  }
}

void product_backward(Tape& tape, const Tensor& dy, const Product& f) {
  Backend& backend = backend_for(dy.device());
  if (f.x_values.defined()) {
    begin_op(f.flops);
    Tensor dw = tape.parameter_gradient(f.w.master).reshape(weight_shape(f));
    backend.weight_gradient(dw, f.x_values, dy, f.p, f.scale);
  }
  if (Tensor db = tape.parameter_gradient(f.bias); db.defined()) backend.bias_gradient(db, dy, f.scale);
  if (const Gradient dx = tape.gradient(f.x); dx.wanted()) input_gradient(backend, dx, dy, f);
  tape.pass(f.residual, f.scale, dy);
}

}  // namespace

Weight packed(const Weight& w, DType dtype) {
  if (!w.master.defined()) return w;
  return backend_for(w.master.device()).pack(w.master.reshape({w.out, w.kernel_h, w.kernel_w, w.in}), dtype);
}

void record_product(const Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams* p, const Epilogue& e) {
  Tape* tape = recorder({&x, &w.master, &e.bias, &e.residual});
  if (!tape) return;
  if (p && (p->stride != 1 || w.kernel_h != w.kernel_w || p->padding >= w.kernel_h))
    fail(ErrorCode::Unsupported,
         "conv2d: a gradient is wanted, which needs stride 1 and a square kernel larger than the padding, got stride "
         "%d, %lld×%lld, padding %d",
         p->stride, ll(w.kernel_h), ll(w.kernel_w), p->padding);
  Product f;
  f.x = TensorRef(x);
  if (tape->needs(w.master)) f.x_values = x;
  f.w = w;
  if (p) f.p = *p;
  f.convolution = p != nullptr;
  f.bias = e.bias;
  f.residual = TensorRef(e.residual);
  f.scale = e.scale;
  f.flops = 2.0 * double(y.numel()) * double(w.kernel_h * w.kernel_w * w.in);
  tape->record(y, [f = std::move(f)](Tape& t, const Tensor& dy) { product_backward(t, dy, f); });
}

}  // namespace df::ops
