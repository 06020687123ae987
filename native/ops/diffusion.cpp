#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/ops.h"
#include "ops/recording.h"

namespace df::ops {

DdpmResult ddpm_step(const Tensor& x, const Tensor& model, const Tensor& noise, const DdpmStep& p, bool want_x0) {
  check_tensor("ddpm_step", "x", x, 4, {DType::F32});
  check_activations("ddpm_step", "model", model, 4);
  refuse_gradient("ddpm_step", model);
  const int64_t batch = x.dim(0), channels = x.dim(3);
  const bool learned = p.variance != DdpmStep::Variance::Fixed;
  DF_CHECK(model.dim(0) == batch || model.dim(0) == 2 * batch, "ddpm_step: model must have %lld or %lld items, got %s",
           ll(batch), ll(2 * batch), model.shape().str().c_str());
  DF_CHECK(model.dim(3) == 2 * channels || (!learned && model.dim(3) == channels),
           "ddpm_step: model must have %lld channels (%lld and as many of the learned variance), got %s",
           ll(2 * channels), ll(channels), model.shape().str().c_str());
  check_like("ddpm_step", "model", model, {model.dim(0), x.dim(1), x.dim(2), model.dim(3)}, model.dtype(), x.device());
  if (p.add_noise) check_like("ddpm_step", "noise", noise, x.shape(), DType::F32, x.device());
  DF_CHECK(p.threshold != DdpmStep::Threshold::Dynamic || (p.ratio >= 0 && p.ratio <= 1),
           "ddpm_step: ratio must be in [0, 1], got %g", double(p.ratio));
  begin_op();
  DdpmResult r{Tensor::empty(x.shape(), DType::F32, x.device()), {}};
  if (want_x0) r.x0 = Tensor::empty(x.shape(), DType::F32, x.device());
  backend_for(x.device()).ddpm_step(r.prev, r.x0, x, model, p.add_noise ? noise : Tensor(), p);
  return r;
}

}  // namespace df::ops
