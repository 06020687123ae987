// Noising, loss, optimizer.
#include <algorithm>
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/gpu/math.cuh"
#include "cuda/map.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

constexpr int kItems = 64;  // whose coefficients travel as a kernel's parameters (at most 4 KB)

// ---- blend
struct Blend {
  Rows<float> y;
  Rows<const float> x, z;
  int64_t rows_per_item;
  float a[kItems], b[kItems];
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    const int64_t item = row / rows_per_item;
    float v[V], w[V];
    Values::load_floats(x[row] + column, v);
    Values::load_floats(z[row] + column, w);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = a[item] * v[i] + b[item] * w[i];
    Values::store_floats(y[row] + column, v);
  }
};

// ---- diffusion loss
constexpr int kLossThreads = 256;
constexpr int kLossValues = 1024;  // of a block

// LossSample with what is common to all values multiplied out, in float64.
struct LossItem {
  float target_x0, target_noise, main_gradient;
  float sample_scale, output_scale, x0_coef, x_coef, true_log, min_log, max_log, variance_gradient;
  float weight, variational_weight;
  bool variational, last;
};

struct Loss {
  double* partial;  // (items, blocks, 2)
  Values model, dmodel;
  Rows<const float> x0, xt, noise;
  unsigned channels, values;  // values of one item
  int64_t pixels, first_item;
  float huber_delta;
  bool huber, has_variance;
  LossItem items[kItems];
};

struct Term {
  double value, derivative;  // in nats; by the log variance
};

GPU_FN double softplus(double z) { return fmax(z, 0.0) + log1p(exp(-fabs(z))); }
GPU_FN double sigmoid(double z) { return 1 / (1 + exp(-z)); }

// -log of the probability that a Gaussian gives to the bin of x0, 2/255 wide and open at -1 and 1 (Ho et al. 2020, eq. 13),
// at least 1e-12, with Φ(a) = sigmoid(2 √(2/π) (a + 0.044715 a³)). One sample in a thousand: float64.
GPU_FN Term decoder_likelihood(double x0, double mean, double log_variance) {
  const double k = 0.79788456080286535588, inverse = exp(-0.5 * log_variance), half_bin = 1.0 / 255;
  const double upper = inverse * (x0 - mean + half_bin), lower = inverse * (x0 - mean - half_bin);
  const double zu = 2 * k * (upper + 0.044715 * upper * upper * upper),
               zl = 2 * k * (lower + 0.044715 * lower * lower * lower),
               du = -k * upper * (1 + 0.134145 * upper * upper), dl = -k * lower * (1 + 0.134145 * lower * lower);
  double log_p, derivative;
  if (x0 < -0.999) {
    log_p = -softplus(-zu);
    derivative = sigmoid(-zu) * du;
  } else if (x0 > 0.999) {
    log_p = -softplus(zl);
    derivative = -sigmoid(zl) * dl;
  } else {  // σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)), which does not cancel in the tails
    const double width = zu - zl, rest = 1 / expm1(width);
    log_p = -softplus(-zu) - softplus(zl) + log(-expm1(-width));
    derivative = (sigmoid(-zu) + rest) * du - (sigmoid(zl) + rest) * dl;
  }
  const double least = -27.631021115928548;  // log(1e-12)
  if (log_p < least) return {-least, 0};
  return {-log_p, -derivative};
}

GPU_FN double warp_sum(double v) {
#pragma unroll
  for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

__global__ void __launch_bounds__(kLossThreads, 2) loss_kernel(Loss p) {
  GPU_SHARED(double[kLossThreads / 32][2], partial);
  const LossItem& s = p.items[blockIdx.y];
  const int64_t item = p.first_item + blockIdx.y;
  double sums[2] = {0, 0};
  for (unsigned j = 0; j < kLossValues; j += kLossThreads) {
    const unsigned i = blockIdx.x * kLossValues + j + threadIdx.x;
    if (i >= p.values) break;
    const int64_t row = item * p.pixels + i / p.channels, column = i % p.channels;
    const float m = p.model.at(row, column), x0 = p.x0[row][column];
    const float e = m - (s.target_x0 * x0 + s.target_noise * p.noise[row][column]);
    float loss, slope = e;
    if (p.huber) {  // e²/2, or delta (|e| - delta/2)
      const float size = fabsf(e), inner = p.huber_delta < size ? p.huber_delta : size;  // a NaN stays
      loss = inner * (size - 0.5f * inner);
      slope = e < 0 ? -inner : inner;
    } else {
      loss = e * e;
    }
    sums[0] += loss;
    if (p.dmodel.defined()) p.dmodel.put(row, column, slope * s.main_gradient);
    if (!p.has_variance) continue;
    float by_variance = 0;
    if (s.variational) {
      const float v = p.model.at(row, p.channels + column), xt = p.xt[row][column];
      if (s.last) {
        const double f = (double(v) + 1) / 2, predicted = double(s.sample_scale) * xt + double(s.output_scale) * m;
        const Term t = decoder_likelihood(x0, s.x0_coef * predicted + double(s.x_coef) * xt,
                                          f * s.max_log + (1 - f) * s.min_log);
        sums[1] += t.value;
        by_variance = float(s.variance_gradient * t.derivative);
      } else {  // the divergence of two Gaussians
        const float log_variance = v * (0.5f * (s.max_log - s.min_log)) + 0.5f * (s.max_log + s.min_log);
        const float difference = s.x0_coef * (x0 - (s.sample_scale * xt + s.output_scale * m));
        const float gap = log_variance - s.true_log;
        const float rest = expf(-gap) + difference * difference * expf(-log_variance);
        sums[1] += 0.5f * ((gap - 1) + rest);
        by_variance = (1 - rest) * (0.5f * s.variance_gradient);
      }
    }
    if (p.dmodel.defined()) p.dmodel.put(row, p.channels + column, by_variance);
  }
  for (int t = 0; t < 2; ++t) {
    const double sum = warp_sum(sums[t]);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32][t] = sum;
  }
  __syncthreads();
  if (threadIdx.x >= 2) return;
  double sum = 0;
  for (int w = 0; w < kLossThreads / 32; ++w) sum += partial[w][threadIdx.x];
  const double weight = threadIdx.x ? double(s.variational_weight) / 0.69314718055994530942 : double(s.weight);
  p.partial[(item * gridDim.x + blockIdx.x) * 2 + threadIdx.x] = weight * sum / double(p.values);
}

// One warp per item and term.
__global__ void __launch_bounds__(32, 1) loss_sum_kernel(Rows<float> terms, const double* partial, int blocks) {
  const double* of = partial + int64_t(blockIdx.x) * blocks * 2 + blockIdx.y;
  double sum = 0;
  for (int b = int(threadIdx.x); b < blocks; b += 32) sum += of[2 * b];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) terms[blockIdx.x][blockIdx.y] = float(sum);
}

// ---- squared norm
constexpr int kNormThreads = 256;
constexpr int kNormValues = 8192;  // of a block

GPU_FN double block_sum(double v) {
  GPU_SHARED(double[kNormThreads / 32], partial);
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kNormThreads / 32; ++w) sum += partial[w];
  return sum;
}

__global__ void __launch_bounds__(kNormThreads, 4)
squared_norm_kernel(double* partial, Rows<const float> x, int64_t rows, int64_t columns) {
  const int64_t first = int64_t(blockIdx.x) * kNormValues;
  double sum = 0;
  for (int64_t i = first + threadIdx.x; i < min(first + kNormValues, rows * columns); i += kNormThreads) {
    const int64_t row = rows == 1 ? 0 : i / columns;
    const double v = x[row][i - row * columns];
    sum += v * v;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kNormThreads, 1) sum_kernel(double* result, const double* partial, int64_t n) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kNormThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *result = sum;
}

// ---- AdamW: every operation rounded by itself (types.h)
struct AdamW {
  float *parameter, *m, *v, *ema;
  const float* gradient;
  float gradient_scale, decay, beta1, new1, beta2, new2, step_size, root_correction, eps, ema_decay, new_ema;

  template <int V> GPU_FN void run(int64_t, int64_t column) const {
    using gpu::multiply_rounded;
    float p[V], first[V], second[V], g[V];
    Values::load_floats(parameter + column, p);
    Values::load_floats(m + column, first);
    Values::load_floats(v + column, second);
    Values::load_floats(gradient + column, g);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float scaled = multiply_rounded(gradient_scale, g[i]);
      first[i] = multiply_rounded(beta1, first[i]) + multiply_rounded(new1, scaled);
      second[i] = multiply_rounded(beta2, second[i]) + multiply_rounded(new2, multiply_rounded(scaled, scaled));
      const float root = sqrtf(second[i]) / root_correction + eps;
      p[i] = p[i] - multiply_rounded(decay, p[i]) - multiply_rounded(step_size, first[i]) / root;
    }
    Values::store_floats(parameter + column, p);
    Values::store_floats(m + column, first);
    Values::store_floats(v + column, second);
    if (!ema) return;
    Values::load_floats(ema + column, g);
#pragma unroll
    for (int i = 0; i < V; ++i) g[i] = multiply_rounded(ema_decay, g[i]) + multiply_rounded(new_ema, p[i]);
    Values::store_floats(ema + column, g);
  }
};

Tensor doubles(int64_t n, Device device) { return Tensor::empty({n * int64_t(sizeof(double))}, DType::U8, device); }

}  // namespace

void CudaBackend::blend(Tensor& y, const std::vector<float>& a, const Tensor& x, const std::vector<float>& b,
                        const Tensor& z) {
  const int64_t items = y.dim(0);
  const bool dense = y.contiguous() && x.contiguous() && z.contiguous();
  for (int64_t first = 0; first < items; first += kItems) {
    const int64_t n = std::min<int64_t>(kItems, items - first);
    const auto part = [&](const Tensor& t) {
      const Tensor s = t.slice_first(first, n);
      return dense ? s.reshape({n, s.numel() / n}) : s;
    };
    const Tensor ys = part(y), xs = part(x), zs = part(z);
    Blend body{rows<float>(ys), rows<const float>(xs), rows<const float>(zs), ys.rows() / n, {}, {}};
    std::copy_n(a.begin() + first, n, body.a);
    std::copy_n(b.begin() + first, n, body.b);
    map(y.device(), plane_of_rows(ys.rows(), ys.dim(-1), {&ys, &xs, &zs}), body);
  }
}

void CudaBackend::diffusion_loss(Tensor& terms, Tensor& dmodel, const Tensor& model, const Tensor& x0, const Tensor& xt,
                                 const Tensor& noise, const DiffusionLoss& p) {
  const Device device = x0.device();
  const int64_t items = x0.dim(0), channels = x0.dim(-1), pixels = x0.rows() / items, values = pixels * channels;
  DF_CHECK(values < int64_t(1) << 31, "diffusion_loss: cuda: an image of 2^31 values or more");
  const unsigned blocks = blocks_for(values, kLossValues);
  const Tensor partial = doubles(items * blocks * 2, device);
  Loss loss{static_cast<double*>(partial.raw()), model, dmodel, rows<const float>(x0), rows<const float>(xt),
            rows<const float>(noise), unsigned(channels), unsigned(values), pixels, 0, p.huber_delta,
            p.main == DiffusionLoss::Main::Huber, model.dim(-1) == 2 * channels, {}};
  for (; loss.first_item < items; loss.first_item += kItems) {
    const int64_t n = std::min<int64_t>(kItems, items - loss.first_item);
    for (int64_t i = 0; i < n; i++) {
      const LossSample& s = p.samples[size_t(loss.first_item + i)];
      const double scale = double(p.gradient_scale) / double(values);
      loss.items[i] = {s.target_x0, s.target_noise, float(scale * s.weight * (loss.huber ? 1 : 2)), s.sample_scale,
                       s.output_scale, s.x0_coef, s.x_coef, s.true_log, s.min_log, s.max_log,
                       float(scale * s.variational_weight / M_LN2 * 0.5 * (double(s.max_log) - s.min_log)), s.weight,
                       s.variational_weight, loss.has_variance && s.variational_weight != 0, s.last};
    }
    gpu::launch(loss_kernel, dim3(blocks, unsigned(n)), dim3(kLossThreads), 0, stream(device), loss);
  }
  gpu::launch(loss_sum_kernel, dim3(unsigned(items), 2), dim3(32), 0, stream(device), rows<float>(terms),
              loss.partial, int(blocks));
}

double CudaBackend::squared_norm(const Tensor& x) {
  const Device device = x.device();
  const int64_t rows = x.contiguous() ? 1 : x.rows(), columns = x.numel() / rows;
  const unsigned blocks = blocks_for(x.numel(), kNormValues);
  const Tensor sums = doubles(int64_t(blocks) + 1, device);
  double *result = reinterpret_cast<double*>(sums.raw()), *partial = result + 1, value = 0;
  gpu::launch(squared_norm_kernel, dim3(blocks), dim3(kNormThreads), 0, stream(device), partial,
              df::IF_CUDA_NAMESPACE::rows<const float>(x), rows, columns);
  gpu::launch(sum_kernel, dim3(1), dim3(kNormThreads), 0, stream(device), result, partial, int64_t(blocks));
  copy_to_host(&value, result, sizeof value, stream(device));
  return value;
}

void CudaBackend::adamw_step(Tensor& parameter, Tensor& m, Tensor& v, Tensor& ema, const Tensor& gradient,
                             const AdamWStep& s) {
  map(parameter.device(), plane({&parameter, &m, &v, &ema, &gradient}),
      AdamW{parameter.data<float>(), m.data<float>(), v.data<float>(), ema.defined() ? ema.data<float>() : nullptr,
            gradient.data<float>(), s.gradient_scale, s.lr * s.weight_decay, s.beta1, 1 - s.beta1, s.beta2, 1 - s.beta2,
            s.step_size, s.root_correction, s.eps, s.ema_decay, 1 - s.ema_decay});
}

}  // namespace df::IF_CUDA_NAMESPACE
