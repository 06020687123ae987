// The loss and the optimizer, cut into blocks of fixed size whose sums meet in a fixed order.
#include <cmath>

#include "cpu/cpu_backend.h"
#include "cpu/pieces.h"
#include "cpu/reference/diffusion_loss.h"
#include "cpu/scratch.h"

namespace df {
namespace {

/// -log p(x0) of a block with t = 0, summed in nats, and its gradient. One sample in a thousand: scalar.
template <class T> double likelihood_term(const LossBlock& b, const LossSample& s) {
  const T* model = static_cast<const T*>(b.model);
  T* dmodel = static_cast<T*>(b.dmodel);
  double sum = 0;
  for (int64_t i = b.begin; i < b.end; i++) {
    const int64_t pixel = i / b.channels, c = i % b.channels;
    const double m = to_float(model[pixel * b.model_stride + c]),
                 f = (double(to_float(model[pixel * b.model_stride + b.variance + c])) + 1) / 2,
                 xt = b.xt[pixel * b.xt_stride + c];
    const double predicted = s.sample_scale * xt + s.output_scale * m;
    const reference::VariationalTerm term = reference::decoder_likelihood(
        b.x0[pixel * b.x0_stride + c], s.x0_coef * predicted + s.x_coef * xt, f * s.max_log + (1 - f) * s.min_log);
    sum += term.value;
    if (dmodel)
      dmodel[pixel * b.dmodel_stride + b.variance + c] =
          from_float<T>(float(b.variance_gradient * term.by_log_variance));
  }
  return sum;
}

}  // namespace

void CpuBackend::blend(Tensor& y, const std::vector<float>& a, const Tensor& x, const std::vector<float>& b,
                       const Tensor& z) {
  const bool dense = y.contiguous() && x.contiguous() && z.contiguous();
  const int64_t rows = dense ? y.dim(0) : y.rows(), columns = y.numel() / rows, per_item = rows / y.dim(0);
  const int64_t pieces = (columns + kElementGrain - 1) / kElementGrain;
  const int64_t grain = std::max<int64_t>(kElementGrain / columns, 1);  // rows
  parallel_ranges(rows * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; piece++) {
      const int64_t row = piece / pieces, first = piece % pieces * kElementGrain,
                    n = std::min(kElementGrain, columns - first);
      const auto at = [&](const Tensor& t) { return row_at(t, dense ? 0 : row, dense ? row * columns + first : first); };
      const size_t item = size_t(row / per_item);
      kernels_.axpby[0][0][0](at(y), a[item], at(x), b[item], at(z), n);
    }
  });
}

void CpuBackend::diffusion_loss(Tensor& terms, Tensor& dmodel, const Tensor& model, const Tensor& x0, const Tensor& xt,
                                const Tensor& noise, const DiffusionLoss& p) {
  const int64_t items = x0.dim(0), channels = x0.dim(-1), pixels = x0.rows() / items, values = pixels * channels,
                blocks = (values + kLossBlock - 1) / kLossBlock;
  const bool has_variance = model.dim(-1) == 2 * channels;
  double* sums = static_cast<double*>(scratch(Scratch::Statistics, size_t(2 * items * blocks) * sizeof(double)));
  parallel_for(items * blocks, [&](int64_t index, int) {
    const int64_t n = index / blocks, row = n * pixels;
    const LossSample& s = p.samples[size_t(n)];
    const bool huber = p.main == DiffusionLoss::Main::Huber, learned = has_variance && s.variational_weight != 0;
    const double scale = double(p.gradient_scale) / double(values);
    LossBlock b = {};
    b.begin = index % blocks * kLossBlock;
    b.end = std::min<int64_t>(b.begin + kLossBlock, values);
    b.channels = b.variance = channels;
    b.model = row_at(model, row);
    b.model_stride = model.row_stride();
    b.dmodel = dmodel.defined() ? row_at(dmodel, row) : nullptr;
    b.dmodel_stride = dmodel.row_stride();
    b.zero_variance = has_variance && !learned;
    b.x0 = x0.data<float>() + row * x0.row_stride();
    b.x0_stride = x0.row_stride();
    b.xt = xt.data<float>() + row * xt.row_stride();
    b.xt_stride = xt.row_stride();
    b.noise = noise.data<float>() + row * noise.row_stride();
    b.noise_stride = noise.row_stride();
    b.target_x0 = s.target_x0;
    b.target_noise = s.target_noise;
    b.huber = huber;
    b.huber_delta = p.huber_delta;
    b.main_gradient = float(scale * s.weight * (huber ? 1 : 2));
    b.divergence = learned && !s.last;
    b.sample_scale = s.sample_scale;
    b.output_scale = s.output_scale;
    b.x0_coef = s.x0_coef;
    b.true_log = s.true_log;
    b.min_log = s.min_log;
    b.max_log = s.max_log;
    b.variance_gradient = float(scale * s.variational_weight / M_LN2 * 0.5 * (double(s.max_log) - s.min_log));
    double* sum = sums + 2 * index;
    kernels_.training.loss[int(model.dtype())](&b, sum);
    if (learned && s.last)
      sum[1] = model.dtype() == DType::F32 ? likelihood_term<float>(b, s) : likelihood_term<BFloat16>(b, s);
  });
  for (int64_t n = 0; n < items; n++) {
    const LossSample& s = p.samples[size_t(n)];
    const double weights[2] = {s.weight, s.variational_weight / M_LN2};
    for (int term = 0; term < 2; term++) {
      double sum = 0;
      for (int64_t b = 0; b < blocks; b++) sum += sums[2 * (n * blocks + b) + term];
      terms.data<float>()[n * terms.row_stride() + term] = float(weights[term] * sum / double(values));
    }
  }
}

double CpuBackend::squared_norm(const Tensor& x) {
  const int64_t rows = x.contiguous() ? 1 : x.rows(), columns = x.numel() / rows,
                pieces = (columns + kElementGrain - 1) / kElementGrain;
  double* sums = static_cast<double*>(scratch(Scratch::Statistics, size_t(rows * pieces) * sizeof(double)));
  parallel_for(rows * pieces, [&](int64_t i, int) {
    const int64_t first = i % pieces * kElementGrain;
    sums[i] = kernels_.training.squared_sum(x.data<float>() + i / pieces * x.row_stride() + first,
                                            std::min(kElementGrain, columns - first));
  });
  return tree_sum<double>(0, rows * pieces, [&](int64_t i) { return sums[i]; });
}

void CpuBackend::adamw_step(Tensor& parameter, Tensor& m, Tensor& v, Tensor& ema, const Tensor& gradient,
                            const AdamWStep& s) {
  const AdamWCoefficients k = {s.gradient_scale, s.lr * s.weight_decay, s.beta1, 1 - s.beta1, s.beta2, 1 - s.beta2,
                               s.step_size, s.root_correction, s.eps, s.ema_decay, 1 - s.ema_decay};
  parallel_ranges(parameter.numel(), kElementGrain, [&](int64_t begin, int64_t end) {
    kernels_.training.adamw(parameter.data<float>() + begin, m.data<float>() + begin, v.data<float>() + begin,
                            ema.defined() ? ema.data<float>() + begin : nullptr, gradient.data<float>() + begin,
                            end - begin, &k);
  });
}

}  // namespace df
