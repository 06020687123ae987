#include "cpu/quantize.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace df {

float quantize_row(int8_t* q, const float* x, int64_t n) {
  int32_t bits = 0;  // of the largest magnitude: non-negative floats are ordered as integers, and these vectorise
  for (int64_t i = 0; i < n; i++) {
    int32_t u;
    std::memcpy(&u, x + i, 4);
    bits = std::max(bits, u & 0x7fffffff);
  }
  float largest;
  std::memcpy(&largest, &bits, 4);
  const float scale = largest / 127;
  if (!(scale >= std::numeric_limits<float>::min())) {
    std::memset(q, 0, size_t(n));
    return 0;
  }
  // adding and subtracting 1.5 * 2^23 rounds to nearest even
  for (int64_t i = 0; i < n; i++) q[i] = int8_t(int32_t((x[i] / scale + 0x1.8p23f) - 0x1.8p23f));
  return scale;
}

}  // namespace df
