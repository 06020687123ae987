// The CUDA backend. Each .cu file holds the kernels of a family and the methods that launch them, and is compiled twice:
// by nvcc for the device, and by the C++ compiler against emulation/ for the tests (namespace cuda_emulated).
#pragma once
#include "cuda/gpu/host.cuh"
#include "cuda/kernels.h"
#include "ops/backend.h"

namespace df::IF_CUDA_NAMESPACE {

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(Kernels kernels = default_kernels()) : kernels_(kernels) {}
  const char* name() const override {
    constexpr const char* emulated[] = {"cuda/emulated", "cuda/emulated/mma", "cuda/emulated/wgmma"};
    return GPU_EMULATED ? emulated[int(kernels_)] : "cuda";
  }

  bool computes(DType t) const override { return t == DType::F16 || Backend::computes(t); }

  // weights.cu
    Weight pack(const Tensor& plain, DType dtype) override;
    Weight pack_transposed(const Tensor& plain, DType dtype) override;
    Weight pack_int8(const Tensor& plain, DType dtype) override;
    void unpack(Tensor& plain, const Weight& weight) override;
    size_t packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) override;

  // products.cu
    void linear(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) override;
    void conv2d(Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e) override;

  // kernels_backward.cu
    void weight_gradient(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dParams& p, float scale) override;
    void bias_gradient(Tensor& db, const Tensor& dy, float scale) override;

  // attention.cu
    void attention(Tensor& y, const Tensor& q, const AttentionParams& p) override;

  // attention_backward.cu
    void attention_backward(Gradient dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue,
      Tensor dbias, const Tensor& dy, const Tensor& y, const Tensor& q, const AttentionParams& p) override;

  // norm.cu
    void group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) override;
    void layer_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) override;
    void rms_norm(Tensor& y, const Tensor& x, const Tensor& gamma, float eps) override;

  // norm_backward.cu
    void group_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, Gradient dscale, Gradient dshift, const Tensor&
      dy, const Tensor& x, const GroupNormParams& p) override;
    void layer_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, const Tensor& dy, const Tensor& x, const
      Tensor& gamma, float eps) override;
    void rms_norm_backward(Gradient dx, Tensor dgamma, const Tensor& dy, const Tensor& x, const Tensor& gamma, float
      eps) override;

  // elementwise.cu
    void activation(Tensor& y, const Tensor& x, Activation kind) override;
    void gated_activation(Tensor& y, const Tensor& gate, const Tensor& up, Activation kind) override;
    void axpby(Tensor& y, float a, const Tensor& x, float b, const Tensor& z) override;
    void copy(Tensor& y, const Tensor& x) override;
    bool all_finite(const Tensor& x) override;

  // elementwise_backward.cu
    void activation_backward(Gradient dx, const Tensor& dy, const Tensor& x, Activation kind) override;
    void gated_activation_backward(Gradient dgate, Gradient dup, const Tensor& dy, const Tensor& gate, const Tensor&
      up, Activation kind) override;
    void scale_backward(Gradient dx, float a, const Tensor& dy) override;

  // layout.cu
    void resample(Tensor& y, const Tensor& x, Resample mode) override;
    void bilinear(Tensor& y, const Tensor& x) override;
    void nchw_to_nhwc(Tensor& y, const Tensor& x) override;
    void nhwc_to_nchw(Tensor& y, const Tensor& x) override;
    void resample_backward(Gradient dx, const Tensor& dy, Resample mode) override;

  // embedding.cu
    void embedding(Tensor& y, const Tensor& ids, const Tensor& table) override;
    void timestep_embedding(Tensor& y, const Tensor& t, bool flip_sin_to_cos, float freq_shift) override;
    void prepend_mean_token(Tensor& y, const Tensor& x, const Tensor& position) override;
    void relative_position_bias(Tensor& y, const Tensor& table, int max_distance) override;
    void prepend_mean_token_backward(Gradient dx, Tensor dposition, const Tensor& dy) override;
    void embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) override;
    void relative_position_bias_backward(Tensor& dtable, const Tensor& dy, int max_distance) override;

  // diffusion.cu
    void ddpm_step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise, const
      DdpmStep& p) override;

  // training.cu
    void blend(Tensor& y, const std::vector<float>& a, const Tensor& x, const std::vector<float>& b, const Tensor& z)
      override;
    void diffusion_loss(Tensor& terms, Tensor& dmodel, const Tensor& model, const Tensor& x0, const Tensor& xt, const
      Tensor& noise, const DiffusionLoss& p) override;
    double squared_norm(const Tensor& x) override;
    void adamw_step(Tensor& parameter, Tensor& m, Tensor& v, Tensor& ema, const Tensor& gradient, const AdamWStep& p)
      override;

 private:
  Kernels kernels_;
};

/// The one instance; it keeps no state.
CudaBackend& backend();

}  // namespace df::IF_CUDA_NAMESPACE
