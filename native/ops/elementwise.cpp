#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/ops.h"
#include "ops/recording.h"

namespace df::ops {

Tensor activation(const Tensor& x, Activation kind) {
  check_activations("activation", "x", x, 0);
  begin_op();
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  backend_for(x.device()).activation(y, x, kind);
  if (Tape* tape = recorder({&x}))
    tape->record(y, [x, kind](Tape& t, const Tensor& dy) {
      begin_op();
      backend_for(x.device()).activation_backward(t.gradient(TensorRef(x)), dy, x, kind);
    });
  return y;
}

Tensor gated_activation(const Tensor& gate, const Tensor& up, Activation kind) {
  check_activations("gated_activation", "gate", gate, 0);
  check_like("gated_activation", "up", up, gate.shape(), gate.dtype(), gate.device());
  begin_op();
  Tensor y = Tensor::empty(gate.shape(), gate.dtype(), gate.device());
  backend_for(gate.device()).gated_activation(y, gate, up, kind);
  if (Tape* tape = recorder({&gate, &up})) {
    check_distinct("gated_activation", {&gate, &up});
    tape->record(y, [gate, up, kind](Tape& t, const Tensor& dy) {
      begin_op();
      const Gradient dgate = t.gradient(TensorRef(gate)), dup = t.gradient(TensorRef(up));
      backend_for(gate.device()).gated_activation_backward(dgate, dup, dy, gate, up, kind);
    });
  }
  return y;
}

Tensor axpby(float a, const Tensor& x, float b, const Tensor& z) {
  check_activations("axpby", "x", x, 0);
  check_activations("axpby", "z", z, 0);
  check_like("axpby", "z", z, x.shape(), z.dtype(), x.device());
  begin_op();
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  backend_for(x.device()).axpby(y, a, x, b, z);
  if (Tape* tape = recorder({&x, &z}))
    tape->record(y, [a, rx = TensorRef(x), b, rz = TensorRef(z)](Tape& t, const Tensor& dy) {
      t.pass(rz, b, dy);
      t.pass(rx, a, dy);
    });
  return y;
}

void add_terms(const std::vector<Tensor>& terms) {
  for (const Tensor& t : terms)
    check_like("add_terms", "terms", t, terms[0].shape(), DType::F32, {terms[0].device().type, t.device().index});
  struct Sum {
    Tensor at;
    Sum operator+(const Sum& other) const {
      begin_op();
      // the CPUs share their memory, other devices have their own
      const bool near = at.device().type != DeviceType::Cuda || at.device() == other.at.device();
      backend_for(at.device()).scale_backward({at, true}, 1, near ? other.at : to_device(other.at, at.device()));
      return *this;
    }
  };
  if (!terms.empty()) tree_sum<Sum>(0, int64_t(terms.size()), [&](int64_t i) { return Sum{terms[size_t(i)]}; });
}

Tensor copy(const Tensor& x, DType dtype, Tensor into) {
  check_tensor("copy", "x", x, 0, {DType::F32, DType::BF16, DType::F16});
  DF_CHECK(dtype == DType::F32 || dtype == DType::BF16 || dtype == DType::F16,
           "copy: dtype must be f32 or bf16 or f16, got %s", dtype_name(dtype));
  Tensor y = result("copy", into, x.shape(), dtype, x.device());
  begin_op();
  backend_for(x.device()).copy(y, x);
  if (Tape* tape = recorder({&x}))
    tape->record(y, [r = TensorRef(x)](Tape& t, const Tensor& dy) { t.pass(r, 1, dy); });
  return y;
}

bool all_finite(const Tensor& x) {
  check_tensor("all_finite", "x", x, 0, {DType::F32, DType::BF16, DType::F16});
  begin_op();
  return backend_for(x.device()).all_finite(x);
}

Tensor to_device(const Tensor& x, Device device) {
  check_tensor("to_device", "x", x, 0, {DType::F32, DType::BF16, DType::F16, DType::I32, DType::I64, DType::U8});
  refuse_gradient("to_device", x);
  begin_op();
  Tensor y = Tensor::empty(x.shape(), x.dtype(), device);
  if (device.type == DeviceType::Meta) return y;
  DF_CHECK(x.device().type != DeviceType::Meta, "to_device: x must be on a device with data, got %s",
           x.device().str().c_str());
  transfer(y, x);
  return y;
}

}  // namespace df::ops
