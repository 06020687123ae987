// Antialiased resize of 8-bit pixels with the results of Pillow's Image.resize (python-pillow/Pillow,
// src/libImaging/Resample.c): what the Python trainers and pipelines of IF feed their networks with.
#pragma once
#include <cstdint>

namespace df {

constexpr int64_t kLongestSide = int64_t(1) << 20;  // pixels

/// Box, triangle, Keys' cubic with a = -1/2, Lanczos with three lobes.
enum class ResizeFilter { Box, Bilinear, Bicubic, Lanczos };

/// `from`: height × width × channels, interleaved; `to`: new_height × new_width × channels, not overlapping `from`.
/// The filter's support grows with the reduction. Rows are filtered first, then columns; each pass has coefficients of
/// 22 fractional bits and rounds to 8 bits; a pass that keeps its size is left out.
/// Throws INVALID_ARGUMENT unless channels are 1 to 4 and all sides 1 to kLongestSide.
void resize_pixels(const uint8_t* from, int64_t width, int64_t height, int64_t channels, uint8_t* to, int64_t new_width,
                   int64_t new_height, ResizeFilter filter);

}  // namespace df
