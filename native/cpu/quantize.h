#pragma once
#include <cstdint>

namespace df {

/// q = round(x / scale) with scale = max|x| / 127, ties to even: q is in [-127, 127] and |x - scale * q| <= scale * (1/2 +
/// 2^-17). A row whose scale would be below the smallest normal float32 becomes zeros with scale 0.
/// @param q  n int8 values
/// @param x  n finite float32 values
/// @return   scale
float quantize_row(int8_t* q, const float* x, int64_t n);

}  // namespace df
