// A backend for tensors of the CPU that computes on another device: every call copies its arguments there and its results
// back, with the strides and the surroundings that they have. Packed weights stay on the device.
#pragma once
#include "ops/backend.h"

namespace df::test {

class MirrorBackend : public Backend {
 public:
  MirrorBackend(Backend& backend, Device device) : backend_(backend), device_(device) {}
  const char* name() const override { return backend_.name(); }
  bool computes(DType t) const override { return backend_.computes(t); }

  Weight pack(const Tensor& plain, DType dtype) override;
  Weight pack_int8(const Tensor& plain, DType dtype) override;
  Weight pack_transposed(const Tensor& plain, DType dtype) override;
  void unpack(Tensor& plain, const Weight& weight) override;
  size_t packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) override;
  void linear(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) override;
  void conv2d(Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e) override;
  void attention(Tensor& y, const Tensor& q, const AttentionParams& p) override;
  void group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) override;
  void layer_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) override;
  void rms_norm(Tensor& y, const Tensor& x, const Tensor& gamma, float eps) override;
  void activation(Tensor& y, const Tensor& x, Activation kind) override;
  void gated_activation(Tensor& y, const Tensor& gate, const Tensor& up, Activation kind) override;
  void axpby(Tensor& y, float a, const Tensor& x, float b, const Tensor& z) override;
  void copy(Tensor& y, const Tensor& x) override;
  bool all_finite(const Tensor& x) override;
  void resample(Tensor& y, const Tensor& x, Resample mode) override;
  void bilinear(Tensor& y, const Tensor& x) override;
  void nchw_to_nhwc(Tensor& y, const Tensor& x) override;
  void nhwc_to_nchw(Tensor& y, const Tensor& x) override;
  void embedding(Tensor& y, const Tensor& ids, const Tensor& table) override;
  void timestep_embedding(Tensor& y, const Tensor& t, bool flip_sin_to_cos, float freq_shift) override;
  void prepend_mean_token(Tensor& y, const Tensor& x, const Tensor& position) override;
  void relative_position_bias(Tensor& y, const Tensor& table, int max_distance) override;
  void ddpm_step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise,
                 const DdpmStep& p) override;
  void weight_gradient(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dParams& p, float scale) override;
  void bias_gradient(Tensor& db, const Tensor& dy, float scale) override;
  void attention_backward(Gradient dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue, Tensor dbias,
                          const Tensor& dy, const Tensor& y, const Tensor& q, const AttentionParams& p) override;
  void group_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, Gradient dscale, Gradient dshift, const Tensor& dy,
                           const Tensor& x, const GroupNormParams& p) override;
  void layer_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, const Tensor& dy, const Tensor& x,
                           const Tensor& gamma, float eps) override;
  void rms_norm_backward(Gradient dx, Tensor dgamma, const Tensor& dy, const Tensor& x, const Tensor& gamma,
                         float eps) override;
  void activation_backward(Gradient dx, const Tensor& dy, const Tensor& x, Activation kind) override;
  void gated_activation_backward(Gradient dgate, Gradient dup, const Tensor& dy, const Tensor& gate, const Tensor& up,
                                 Activation kind) override;
  void scale_backward(Gradient dx, float a, const Tensor& dy) override;
  void resample_backward(Gradient dx, const Tensor& dy, Resample mode) override;
  void prepend_mean_token_backward(Gradient dx, Tensor dposition, const Tensor& dy) override;
  void embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) override;
  void relative_position_bias_backward(Tensor& dtable, const Tensor& dy, int max_distance) override;
  void blend(Tensor& y, const std::vector<float>& a, const Tensor& x, const std::vector<float>& b,
             const Tensor& z) override;
  void diffusion_loss(Tensor& terms, Tensor& dmodel, const Tensor& model, const Tensor& x0, const Tensor& xt,
                      const Tensor& noise, const DiffusionLoss& p) override;
  double squared_norm(const Tensor& x) override;
  void adamw_step(Tensor& parameter, Tensor& m, Tensor& v, Tensor& ema, const Tensor& gradient,
                  const AdamWStep& p) override;

 private:
  class Call;
  template <class F> void call(F run);
  Backend& backend_;
  Device device_;
};

}  // namespace df::test
