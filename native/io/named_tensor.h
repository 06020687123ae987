// A tensor of a file or model by name: its data, or what is known about it before any data is read.
#pragma once
#include <string>

#include "core/tensor.h"

namespace df {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

struct TensorInfo {
  std::string name;
  Shape shape;
  DType dtype = DType::F32;
};

}  // namespace df
