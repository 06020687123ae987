// The diffusion loss with its gradient, the squared norm, AdamW.
#pragma once

/// Calls body(i, pixel, channel) for the values of a block, i counted from 0.
template <class F> DF_INLINE void for_block_values(const LossBlock& b, const F& body) {
  int64_t pixel = b.begin / b.channels, channel = b.begin % b.channels;
  for (int i = 0; i < int(b.end - b.begin); i++) {
    body(i, pixel, channel);
    if (++channel == b.channels) channel = 0, pixel++;
  }
}

template <int HUBER> DF_INLINE double main_term(const LossBlock& b, float* m, const float* x0, const float* noise, int n) {
  Vec total = set1(0);
  const Vec delta = set1(b.huber_delta);
  for_vectors(n, [&](int64_t i, int k) DF_LAMBDA_INLINE {
    const Vec target = fma(set1(b.target_x0), load_some(x0 + i, k), set1(b.target_noise) * load_some(noise + i, k));
    const Vec e = load_some(m + i, k) - target;
    Vec loss, slope = e;
    if (HUBER) {
      const Vec size = absolute(e), clamped = select(less(delta, size), delta, size);  // a NaN stays
      loss = clamped * (size - set1(0.5f) * clamped);  // e²/2, or delta * (|e| - delta/2)
      slope = select(less(e, set1(0)), set1(0) - clamped, clamped);
    } else {
      loss = e * e;
    }
    total = total + keep(loss, k);
    store_some(m + i, slope * set1(b.main_gradient), k);
  });
  return double(sum(total));
}

/// KL(posterior ‖ model) of values whose predicted x0 is known up to m; the gradient takes the place of v.
DF_INLINE double divergence_term(const LossBlock& b, const float* m, float* v, const float* x0, const float* xt, int n) {
  Vec total = set1(0);
  const float middle = 0.5f * (b.max_log + b.min_log), half_range = 0.5f * (b.max_log - b.min_log);
  for_vectors(n, [&](int64_t i, int k) DF_LAMBDA_INLINE {
    const Vec log_variance = fma(load_some(v + i, k), set1(half_range), set1(middle));
    const Vec predicted = fma(set1(b.sample_scale), load_some(xt + i, k), set1(b.output_scale) * load_some(m + i, k));
    const Vec difference = set1(b.x0_coef) * (load_some(x0 + i, k) - predicted);
    const Vec gap = log_variance - set1(b.true_log), ratio = exponential(set1(0) - gap);
    const Vec square = difference * difference * exponential(set1(0) - log_variance), rest = ratio + square;
    total = total + keep(set1(0.5f) * ((gap - set1(1.f)) + rest), k);
    store_some(v + i, (set1(1.f) - rest) * set1(0.5f * b.variance_gradient), k);
  });
  return double(sum(total));
}

template <class T> void diffusion_loss(const LossBlock* block, double* sums) {
  const LossBlock& b = *block;
  const int n = int(b.end - b.begin);
  const T* model = static_cast<const T*>(b.model);
  T* dmodel = static_cast<T*>(b.dmodel);
  alignas(64) float m[kLossBlock], v[kLossBlock], x0[kLossBlock], xt[kLossBlock], noise[kLossBlock];
  const auto value = [](T t) DF_LAMBDA_INLINE {
    if constexpr (sizeof(T) == 4) {
      return t;
    } else {
      const uint32_t u = uint32_t(t.bits) << 16;
      return read<float>(&u);
    }
  };
  for_block_values(b, [&](int i, int64_t pixel, int64_t c) DF_LAMBDA_INLINE {
    m[i] = value(model[pixel * b.model_stride + c]);
    x0[i] = b.x0[pixel * b.x0_stride + c];
    noise[i] = b.noise[pixel * b.noise_stride + c];
    if (!b.divergence) return;
    v[i] = value(model[pixel * b.model_stride + b.variance + c]);
    xt[i] = b.xt[pixel * b.xt_stride + c];
  });
  sums[1] = b.divergence ? divergence_term(b, m, v, x0, xt, n) : 0;
  sums[0] = b.huber ? main_term<1>(b, m, x0, noise, n) : main_term<0>(b, m, x0, noise, n);
  if (!dmodel) return;
  T dm[kLossBlock], dv[kLossBlock];
  convert_row(dm, m, n);
  if (b.divergence) convert_row(dv, v, n);
  for_block_values(b, [&](int i, int64_t pixel, int64_t c) DF_LAMBDA_INLINE {
    T* row = dmodel + pixel * b.dmodel_stride;
    row[c] = dm[i];
    if (b.divergence) row[b.variance + c] = dv[i];
    else if (b.zero_variance) row[b.variance + c] = T{};
  });
}

inline double squared_sum(const float* x, int64_t n) {
  double sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)  // a product of two floats is exact in double, fused or not
    for (int j = 0; j < 16; j++) sums[j] += double(x[i + j]) * double(x[i + j]);
  for (int j = 0; i + j < n; j++) sums[j] += double(x[i + j]) * double(x[i + j]);
  for (int width = 8; width; width /= 2)
    for (int j = 0; j < width; j++) sums[j] += sums[j + width];
  return sums[0];
}

inline void adamw(float* p, float* m, float* v, float* ema, const float* g, int64_t n, const AdamWCoefficients* k) {
  for_vectors(n, [&](int64_t i, int l) DF_LAMBDA_INLINE {
    const Vec gradient = rounded_product(set1(k->gradient_scale), load_some(g + i, l));
    const Vec first = rounded_product(set1(k->beta1), load_some(m + i, l)) + rounded_product(set1(k->new1), gradient);
    const Vec second =
        rounded_product(set1(k->beta2), load_some(v + i, l)) + rounded_product(set1(k->new2), rounded_product(gradient, gradient));
    const Vec old = load_some(p + i, l), decayed = old - rounded_product(set1(k->decay), old);
    const Vec root = square_root(second) / set1(k->root_correction) + set1(k->eps);
    const Vec parameter = decayed - rounded_product(set1(k->step_size), first) / root;
    store_some(m + i, first, l);
    store_some(v + i, second, l);
    store_some(p + i, parameter, l);
    if (ema)
      store_some(ema + i, rounded_product(set1(k->ema_decay), load_some(ema + i, l)) + rounded_product(set1(k->new_ema), parameter), l);
  });
}

constexpr TrainingKernels kTraining = {{diffusion_loss<float>, diffusion_loss<bf16>}, squared_sum, adamw};
