// The fast CPU backend: one class over the kernel table of an instruction set. What is rare or cheap stays with the
// reference backend that it derives from. Everything is cut into work items by shape alone, so the bits of a result do
// not depend on the number of threads.
#pragma once
#include <optional>

#include "cpu/kernels.h"
#include "cpu/reference/reference_backend.h"

namespace df {

struct PixelSlabs;
struct GroupStatistics;

/// Zeros that stand for the pixels outside of an image.
constexpr int64_t kZeroBytes = 64 << 10;
extern const char kZeros[kZeroBytes];

class CpuBackend : public ReferenceBackend {
 public:
  /// `name` as in "cpu/avx2"; both must outlive the backend.
  CpuBackend(const char* name, const CpuKernels& kernels) : name_(name), kernels_(kernels) {}
  const char* name() const override { return name_; }

  // cpu_pack.cpp
  Weight pack(const Tensor& plain, DType dtype) override;
  Weight pack_transposed(const Tensor& plain, DType dtype) override;
  void unpack(Tensor& plain, const Weight& weight) override;
  size_t packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) override;

  // cpu_int8.cpp
  Weight pack_int8(const Tensor& plain, DType dtype) override;

  // cpu_products.cpp
  void linear(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) override;
  void conv2d(Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e) override;

  // cpu_products_backward.cpp
  void weight_gradient(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dParams& p, float scale) override;
  void bias_gradient(Tensor& db, const Tensor& dy, float scale) override;

  // cpu_winograd.cpp
  size_t conv2d_scratch_bytes(const Shape& x, const Weight& w, const Conv2dParams& p) override;

  // cpu_attention.cpp
  void attention(Tensor& y, const Tensor& q, const AttentionParams& p) override;

  // cpu_norm.cpp
  void group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) override;
  void layer_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) override;
  void rms_norm(Tensor& y, const Tensor& x, const Tensor& gamma, float eps) override;

  // cpu_attention_backward.cpp
  void attention_backward(Gradient dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue,
                          Tensor dbias, const Tensor& dy, const Tensor& y, const Tensor& q,
                          const AttentionParams& p) override;

  // cpu_norm_backward.cpp
  void group_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, Gradient dscale, Gradient dshift,
                           const Tensor& dy, const Tensor& x, const GroupNormParams& p) override;
  void layer_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, const Tensor& dy, const Tensor& x,
                           const Tensor& gamma, float eps) override;
  void rms_norm_backward(Gradient dx, Tensor dgamma, const Tensor& dy, const Tensor& x, const Tensor& gamma,
                         float eps) override;

  // cpu_elementwise.cpp
  void activation(Tensor& y, const Tensor& x, Activation kind) override;
  void gated_activation(Tensor& y, const Tensor& gate, const Tensor& up, Activation kind) override;
  void axpby(Tensor& y, float a, const Tensor& x, float b, const Tensor& z) override;
  void copy(Tensor& y, const Tensor& x) override;
  bool all_finite(const Tensor& x) override;

  // cpu_elementwise_backward.cpp
  void activation_backward(Gradient dx, const Tensor& dy, const Tensor& x, Activation kind) override;
  void gated_activation_backward(Gradient dgate, Gradient dup, const Tensor& dy, const Tensor& gate, const Tensor& up,
                                 Activation kind) override;
  void scale_backward(Gradient dx, float a, const Tensor& dy) override;
  void resample_backward(Gradient dx, const Tensor& dy, Resample mode) override;

  // cpu_layout.cpp
  void resample(Tensor& y, const Tensor& x, Resample mode) override;
  void nchw_to_nhwc(Tensor& y, const Tensor& x) override;
  void nhwc_to_nchw(Tensor& y, const Tensor& x) override;
  void embedding(Tensor& y, const Tensor& ids, const Tensor& table) override;

  // cpu_training.cpp
  void blend(Tensor& y, const std::vector<float>& a, const Tensor& x, const std::vector<float>& b,
             const Tensor& z) override;
  void diffusion_loss(Tensor& terms, Tensor& dmodel, const Tensor& model, const Tensor& x0, const Tensor& xt,
                      const Tensor& noise, const DiffusionLoss& p) override;
  double squared_norm(const Tensor& x) override;
  void adamw_step(Tensor& parameter, Tensor& m, Tensor& v, Tensor& ema, const Tensor& gradient,
                  const AdamWStep& p) override;

  // cpu_diffusion.cpp
  void ddpm_step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise,
                 const DdpmStep& p) override;

 private:
  /// Identifies [panel][tap][k / unit][panel width][unit]: panel width * 16 + unit.
  int layout(DType dtype) const { return kernels_.panel * 16 + kernels_.unit[int(dtype)]; }
  /// `k` rounded up to whole units.
  int64_t padded(int64_t k, DType dtype) const {
    const int64_t unit = kernels_.unit[int(dtype)];
    return (k + unit - 1) / unit * unit;
  }
  int64_t panels(int64_t columns) const { return (columns + kernels_.panel - 1) / kernels_.panel; }
  void check_layout(const char* op, const Weight& w) const;
  /// With the kernel and device of `plain`, values not yet written.
  Weight empty_weight(const Tensor& plain, int64_t out, int64_t in, DType dtype);
  void unpack_int8(Tensor& plain, const Weight& w) const;
  void set_operands(GemmProblem& g, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) const;
  void multiply(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e, GemmProblem& g) const;
  /// Sizes only, for gradients dw of a weight and inputs x of `dtype`; no addresses.
  WeightGradientProblem plan_weight_gradient(const Shape& dw, const Shape& x, DType dtype, const Conv2dParams& p) const;
  double winograd_cost(int form, int64_t height, int64_t width, const Weight& w) const;
  /// Nothing: direct.
  std::optional<WinogradForm> winograd_form(const Shape& x, const Weight& w, const Conv2dParams& p) const;
  /// Sizes and strides of one block of tiles; no addresses.
  WinogradProblem plan_winograd(WinogradForm form, const Shape& x, const Weight& w) const;
  struct WinogradBytes {
    size_t windows, products;  // of one block of tiles
    size_t weights;            // per thread
  };
  WinogradBytes winograd_bytes(WinogradForm form, const WinogradProblem& p) const;
  struct WinogradGradientSizes {
    int64_t positions, tiles_y, tiles_x, groups;
    int64_t tile_values;              // of transformed x and dy per tile and position
    int64_t step_tiles, block_tiles;  // most tiles
  };
  WinogradGradientSizes winograd_gradient_sizes(int form, const Shape& dw, const Shape& x) const;
  /// Of a weight gradient; depends on one image and the weight only. Nothing: direct.
  std::optional<WinogradForm> winograd_gradient_form(const Shape& dw, const Shape& x, DType dtype,
                                                     const Conv2dParams& p) const;
  void winograd_weight_gradient(WinogradForm form, Tensor& dw, const Tensor& x, const Tensor& dy, float scale) const;
  void winograd(WinogradForm form, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) const;
  GroupStatistics group_statistics(const Tensor& x, const GroupNormParams& p, const PixelSlabs& cut,
                                   int64_t coefficient_rows) const;
  void row_norm_backward(const Gradient& dx, const Tensor& dgamma, const Tensor& dbeta, const Tensor& dy,
                         const Tensor& x, const Tensor& gamma, float eps,
                         void (*kernel)(const RowNormBackward*)) const;

  const char* name_;
  const CpuKernels& kernels_;
};

/// Address of an element of a row; the row stride is respected.
inline char* row_at(const Tensor& t, int64_t row, int64_t column = 0) {
  return static_cast<char*>(t.raw()) + size_t(row * t.row_stride() + column) * dtype_size(t.dtype());
}

}  // namespace df
