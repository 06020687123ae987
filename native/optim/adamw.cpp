#include "optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/execution.h"
#include "ops/backend.h"

namespace df {
namespace {

void check(size_t index, const char* name, const Tensor& t, const Tensor& parameter) {
  const auto fits = [&] {
    return t.defined() && t.dtype() == DType::F32 && t.contiguous() && t.shape() == parameter.shape() &&
           t.device() == parameter.device() && t.numel() > 0;
  };
  DF_CHECK(fits(), "AdamW: %s of parameter %zu must be contiguous f32 %s on %s, got %s", name, index,
           parameter.shape().str().c_str(), parameter.device().str().c_str(),
           !t.defined() ? "an undefined one"
                        : format("%s%s %s on %s", t.contiguous() ? "" : "strided ", dtype_name(t.dtype()),
                                 t.shape().str().c_str(), t.device().str().c_str()).c_str());
}

void check_range(const char* name, double value, double low, double below) {
  DF_CHECK(value >= low && value < below, "AdamW: %s must be at least %g and less than %g, got %g", name, low, below,
           value);
}

}  // namespace

AdamW::AdamW(std::vector<TrainedParameter> parameters) : parameters_(std::move(parameters)) {
  for (size_t i = 0; i < parameters_.size(); i++) {
    const TrainedParameter& p = parameters_[i];
    check(i, "the value", p.parameter, p.parameter);
    check(i, "the gradient", p.gradient, p.parameter);
    check(i, "m", p.m, p.parameter);
    check(i, "v", p.v, p.parameter);
    if (p.ema.defined()) check(i, "the EMA", p.ema, p.parameter);
  }
}

double AdamW::gradient_norm() const {
  if (parameters_.empty()) return 0;
  begin_op();
  return std::sqrt(tree_sum<double>(0, int64_t(parameters_.size()), [&](int64_t i) {
    const Tensor& gradient = parameters_[size_t(i)].gradient;
    return backend_for(gradient.device()).squared_norm(gradient);
  }));
}

OptimizerResult AdamW::step(const OptimizerStep& p) {
  DF_CHECK(p.step >= 1, "AdamW: step must be at least 1, got %lld", static_cast<long long>(p.step));
  check_range("lr", p.lr, 0, INFINITY);
  check_range("weight_decay", p.weight_decay, 0, INFINITY);
  check_range("beta1", p.beta1, 0, 1);
  check_range("beta2", p.beta2, 0, 1);
  check_range("eps", p.eps, 0, INFINITY);
  check_range("clip_norm", p.clip_norm, 0, INFINITY);
  check_range("ema_decay", p.ema_decay, 0, 1);
  check_range("norm_limit", p.norm_limit, 0, INFINITY);

  OptimizerResult result;
  result.gradient_norm = gradient_norm();
  result.applied = std::isfinite(result.gradient_norm) && !(p.norm_limit > 0 && result.gradient_norm > p.norm_limit);
  if (!result.applied) return result;

  AdamWStep s;
  s.gradient_scale = p.clip_norm > 0 ? float(std::min(1.0, p.clip_norm / (result.gradient_norm + 1e-6))) : 1;
  s.lr = float(p.lr);
  s.weight_decay = float(p.weight_decay);
  s.beta1 = float(p.beta1);
  s.beta2 = float(p.beta2);
  s.eps = float(p.eps);
  // of the rounded betas, which the moments are averaged with: 1 - 0.999f differs from 0.001 by 1.3e-5 of it
  s.step_size = float(p.lr / (1 - std::pow(double(s.beta1), double(p.step))));
  s.root_correction = float(std::sqrt(1 - std::pow(double(s.beta2), double(p.step))));
  s.ema_decay = float(p.ema_decay);
  for (TrainedParameter& t : parameters_)
    backend_for(t.parameter.device()).adamw_step(t.parameter, t.m, t.v, t.ema, t.gradient, s);
  return result;
}

}  // namespace df
