// Compiled without contraction of a * b + c (CMakeLists.txt): AdamW's float32 results are exact, operation by operation.
#include <cmath>

#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {

double ReferenceBackend::squared_norm(const Tensor& x) {
  double sum = 0;
  for (double v : reference::load(x)) sum += v * v;
  return sum;
}

void ReferenceBackend::adamw_step(Tensor& parameter, Tensor& m, Tensor& v, Tensor& ema, const Tensor& gradient,
                                  const AdamWStep& s) {
  float *ps = parameter.data<float>(), *ms = m.data<float>(), *vs = v.data<float>(),
        *es = ema.defined() ? ema.data<float>() : nullptr;
  const float* gs = gradient.data<float>();
  const float decay = s.lr * s.weight_decay, new1 = 1 - s.beta1, new2 = 1 - s.beta2, new_ema = 1 - s.ema_decay;
  for (int64_t i = 0; i < parameter.numel(); i++) {
    const float g = s.gradient_scale * gs[i];
    float p = ps[i];
    p = p - decay * p;
    ms[i] = s.beta1 * ms[i] + new1 * g;
    vs[i] = s.beta2 * vs[i] + new2 * (g * g);
    p = p - s.step_size * ms[i] / (std::sqrt(vs[i]) / s.root_correction + s.eps);
    ps[i] = p;
    if (es) es[i] = s.ema_decay * es[i] + new_ema * p;
  }
}

}  // namespace df
