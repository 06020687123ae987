// Shapes only: the ops check and allocate as on any device, and nothing is computed. Gives the memory plan and the work
// of a model from the very code that runs it.
#pragma once
#include "ops/backend.h"

namespace df {

/// Packed weights have as many bytes as those of the CPU backend in use (kMeta), or of the CUDA backend (kMetaCuda).
Backend& meta_backend(Device device);

}  // namespace df
