// Shapes only: the ops check and allocate as on any device, and nothing is computed. Gives the memory plan and the work
// of a model from the very code that runs it.
#pragma once
#include "ops/backend.h"

namespace df {

/// The one instance. Its packed weights have as many bytes as those of the CPU backend in use.
Backend& meta_backend();

}  // namespace df
