#include "ops/meta_backend.h"

#include <algorithm>

#include "core/execution.h"
#include "cuda/gemm/plan.h"
#include "cuda/weight_layout.h"

namespace df {
namespace {

class MetaBackend : public Backend {
 public:
  const char* name() const override { return "meta"; }

  Weight pack(const Tensor& plain, DType dtype) override { return pack_as(plain, plain.dim(0), plain.dim(-1), dtype); }
  Weight pack_int8(const Tensor& plain, DType dtype) override {
    Weight w;
    w.out = plain.dim(0);
    w.in = plain.dim(1);
    w.dtype = dtype;
    const size_t values = packed_bytes(w.out, 1, 1, w.in, dtype) / dtype_size(dtype);
    w.data = Tensor::empty({int64_t(values)}, DType::U8, plain.device());
    w.scales = Tensor::empty({w.out}, DType::F32, plain.device());
    return w;
  }
  size_t packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) override {
    return cpu_backend(cpu_isa()).packed_bytes(out, kernel_h, kernel_w, in, dtype);
  }
  void unpack(Tensor&, const Weight&) override {}

  void linear(Tensor&, const Tensor&, const Weight&, const Epilogue&) override {}
  void conv2d(Tensor&, const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue&) override {
    if (WorkCounter* work = Execution::current().work)
      work->scratch_bytes = std::max(work->scratch_bytes, conv2d_scratch_bytes(x.shape(), w, p));
  }
  size_t conv2d_scratch_bytes(const Shape& x, const Weight& w, const Conv2dParams& p) override {
    return cpu_backend(cpu_isa()).conv2d_scratch_bytes(x, w, p);
  }
  void attention(Tensor&, const Tensor&, const AttentionParams&) override {}
  void group_norm(Tensor&, const Tensor&, const GroupNormParams&) override {}
  void layer_norm(Tensor&, const Tensor&, const Tensor&, const Tensor&, float) override {}
  void rms_norm(Tensor&, const Tensor&, const Tensor&, float) override {}
  void activation(Tensor&, const Tensor&, Activation) override {}
  void gated_activation(Tensor&, const Tensor&, const Tensor&, Activation) override {}
  void axpby(Tensor&, float, const Tensor&, float, const Tensor&) override {}
  void copy(Tensor&, const Tensor&) override {}
  bool all_finite(const Tensor&) override { return true; }
  void resample(Tensor&, const Tensor&, Resample) override {}
  void bilinear(Tensor&, const Tensor&) override {}
  void nchw_to_nhwc(Tensor&, const Tensor&) override {}
  void nhwc_to_nchw(Tensor&, const Tensor&) override {}
  void embedding(Tensor&, const Tensor&, const Tensor&) override {}
  void timestep_embedding(Tensor&, const Tensor&, bool, float) override {}
  void prepend_mean_token(Tensor&, const Tensor&, const Tensor&) override {}
  void relative_position_bias(Tensor&, const Tensor&, int) override {}
  Weight pack_transposed(const Tensor& plain, DType dtype) override {
    return pack_as(plain, plain.dim(-1), plain.dim(0), dtype);
  }
  void weight_gradient(Tensor&, const Tensor&, const Tensor&, const Conv2dParams&, float) override {}
  void bias_gradient(Tensor&, const Tensor&, float) override {}
  void ddpm_step(Tensor&, Tensor&, const Tensor&, const Tensor&, const Tensor&, const DdpmStep&) override {}

  void attention_backward(Gradient, const std::vector<Gradient>&, const std::vector<Gradient>&, Tensor, const Tensor&, const Tensor&, const Tensor&, const AttentionParams&) override {}
  void group_norm_backward(Gradient, Tensor, Tensor, Gradient, Gradient, const Tensor&, const Tensor&, const GroupNormParams&) override {}
  void layer_norm_backward(Gradient, Tensor, Tensor, const Tensor&, const Tensor&, const Tensor&, float) override {}
  void rms_norm_backward(Gradient, Tensor, const Tensor&, const Tensor&, const Tensor&, float) override {}
  void activation_backward(Gradient, const Tensor&, const Tensor&, Activation) override {}
  void gated_activation_backward(Gradient, Gradient, const Tensor&, const Tensor&, const Tensor&, Activation) override {}
  void scale_backward(Gradient, float, const Tensor&) override {}
  void resample_backward(Gradient, const Tensor&, Resample) override {}
  void prepend_mean_token_backward(Gradient, Tensor, const Tensor&) override {}
  void embedding_backward(Tensor&, const Tensor&, const Tensor&) override {}
  void relative_position_bias_backward(Tensor&, const Tensor&, int) override {}
  void blend(Tensor&, const std::vector<float>&, const Tensor&, const std::vector<float>&, const Tensor&) override {}
  void diffusion_loss(Tensor&, Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const DiffusionLoss&) override {}
  double squared_norm(const Tensor&) override { return 0; }
  void adamw_step(Tensor&, Tensor&, Tensor&, Tensor&, const Tensor&, const AdamWStep&) override {}

 private:
  Weight pack_as(const Tensor& plain, int64_t out, int64_t in, DType dtype) {
    const bool convolution = plain.shape().rank() == 4;
    Weight w;
    w.out = out;
    w.kernel_h = convolution ? plain.dim(1) : 1;
    w.kernel_w = convolution ? plain.dim(2) : 1;
    w.in = in;
    w.dtype = dtype;
    const size_t bytes = packed_bytes(w.out, w.kernel_h, w.kernel_w, w.in, dtype);
    w.data = Tensor::empty({int64_t(bytes)}, DType::U8, plain.device());
    return w;
  }
};

class CudaMetaBackend : public MetaBackend {
 public:
  bool computes(DType t) const override { return t == DType::F16 || MetaBackend::computes(t); }
  size_t packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) override {
    return cuda_packed_bytes(out, kernel_h, kernel_w, in, dtype);
  }
  void linear(Tensor&, const Tensor& x, const Weight& w, const Epilogue&) override {
    const int64_t items = x.shape().rank() > 1 ? std::max<int64_t>(x.dim(0), 1) : 1;
    count(product_bytes(items, x.rows() / items, w));
  }
  size_t conv2d_scratch_bytes(const Shape& x, const Weight& w, const Conv2dParams& p) override {
    const int64_t height = (x[1] + 2 * p.padding - w.kernel_h) / p.stride + 1;
    return product_bytes(x[0], height * ((x[2] + 2 * p.padding - w.kernel_w) / p.stride + 1), w);
  }
  void weight_gradient(Tensor& dw, const Tensor&, const Tensor& dy, const Conv2dParams&, float) override {
    const int64_t items = dy.shape().rank() > 1 ? std::max<int64_t>(dy.dim(0), 1) : 1, out = dw.dim(0), in = dw.dim(-1);
    count(size_t(gemm::gradient_scratch_bytes(items, dy.rows() / items, out, dw.numel() / (out * in), in, kMultiprocessors,
                                              gemm::kGradientWorkspace)));
  }

 private:
  static constexpr int kMultiprocessors = 132;  // of an H100: no fewer than those of most devices

  static size_t product_bytes(int64_t items, int64_t item_rows, const Weight& w) {
    const int64_t taps = w.kernel_h * w.kernel_w, in = cuda_padded_in(w.in);
    int64_t bytes = gemm::product_scratch_bytes(items * item_rows, item_rows, w.out, taps, in, kMultiprocessors,
                                                gemm::kSplitWorkspace);
    if (w.int8()) {
      const int64_t row_bytes = taps * in * int64_t(dtype_size(w.dtype));
      bytes += row_bytes * std::min(w.out, gemm::widened_slab(row_bytes, gemm::kWidenedWorkspace));
    }
    return size_t(bytes);
  }
  static void count(size_t scratch_bytes) {
    if (WorkCounter* work = Execution::current().work) work->scratch_bytes = std::max(work->scratch_bytes, scratch_bytes);
  }
};

}  // namespace

Backend& meta_backend(Device device) {
  static MetaBackend cpu;
  static CudaMetaBackend cuda;
  return device == kMetaCuda ? cuda : cpu;
}

}  // namespace df
