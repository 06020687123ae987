// AdamW over all parameters of a model at once: clipping by the global norm, the step, the moving average.
#pragma once
#include <vector>

#include "core/tensor.h"

namespace df {

/// One trained tensor and what belongs to it: float32, contiguous, of one shape, on one device. `ema` may be undefined.
struct TrainedParameter {
  Tensor parameter, gradient, m, v, ema;
};

struct OptimizerStep {
  int64_t step = 1;                ///< n of the bias corrections, from 1
  double lr = 0, weight_decay = 1e-2, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double clip_norm = 0;            ///< largest global norm of the gradient; 0: not clipped
  double ema_decay = 0;
  double norm_limit = 0;           ///< > 0: a larger norm leaves everything as it is
};
struct OptimizerResult {
  double gradient_norm = 0;        ///< before clipping
  bool applied = false;            ///< false: norm not finite or above the limit; parameters and moments are unchanged
};

class AdamW {
 public:
  /// Throws INVALID_ARGUMENT when a parameter's tensors do not fit each other; its index is named.
  explicit AdamW(std::vector<TrainedParameter> parameters);
  /// ‖gradient‖₂ over all parameters, summed in double in a fixed order. 0 without parameters.
  double gradient_norm() const;
  /// One step of torch.optim.AdamW (Loshchilov & Hutter 2019, algorithm 2) after torch.nn.utils.clip_grad_norm_: the
  /// gradients count min(1, clip_norm / (norm + 1e-6)) times. The gradient tensors stay as they are. Throws
  /// INVALID_ARGUMENT for coefficients out of range; cancelled only before anything has changed.
  OptimizerResult step(const OptimizerStep& p);

 private:
  std::vector<TrainedParameter> parameters_;
};

}  // namespace df
