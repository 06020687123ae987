// Working memory of the CPU kernels: one kept, growing buffer per thread and purpose, so that a step allocates nothing.
#pragma once
#include <cstddef>

namespace df {

enum class Scratch { Partial, Packed, Scores, Weights, Rows, Statistics, Coefficients, Windows, Transformed };

/// At least `bytes` bytes, 64-byte aligned, uninitialised. Valid until the same thread asks for the same purpose again;
/// other threads may use it meanwhile. Throws OUT_OF_MEMORY.
void* scratch(Scratch purpose, size_t bytes);

}  // namespace df
