// The UNet's forward pass of a picture: the same work at every step, so that a device may record it once and repeat it.
#pragma once
#include <memory>

#include "core/device_runtime.h"
#include "core/tensor.h"

namespace df {

class UNet;
struct Conditioning;

class RecordedForward {
 public:
  /// UNet::forward. On a cuda device the second call with arguments of the same shapes records it, and calls from then on
  /// repeat what was recorded; the result is then valid until the next call. Not thread-safe.
  Tensor run(const UNet& unet, const Tensor& x, const Tensor& t, const Conditioning& cond, const Tensor& class_labels);

 private:
  struct Key {
    uint64_t weights = 0;  ///< ParameterStore::version
    Shape x;
    DType dtype = DType::F32;
    bool operator==(const Key& o) const { return weights == o.weights && x == o.x && dtype == o.dtype; }
  };
  void record(const UNet& unet, const Conditioning& cond);

  Key key_;
  int calls_ = 0;  // of this key
  Tensor x_, t_, class_labels_, result_;
  std::shared_ptr<DeviceGraph> graph_;
  double flops_ = 0;
};

}  // namespace df
