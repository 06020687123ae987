#include "io/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "core/error.h"

namespace df {
namespace {

constexpr int kFraction = 22;  // bits of the coefficients: 8 for the value, 2 for overshoot and sign remain

double sinc(double x) {
  if (x == 0) return 1;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double support_of(ResizeFilter filter) {
  switch (filter) {
    case ResizeFilter::Box: return 0.5;
    case ResizeFilter::Bilinear: return 1;
    case ResizeFilter::Bicubic: return 2;
    case ResizeFilter::Lanczos: return 3;
  }
  return 0;
}

double weight_of(ResizeFilter filter, double x) {
  const double d = std::abs(x);
  switch (filter) {
    case ResizeFilter::Box: return x > -0.5 && x <= 0.5 ? 1 : 0;
    case ResizeFilter::Bilinear: return d < 1 ? 1 - d : 0;
    case ResizeFilter::Bicubic:
      if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
      return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
    case ResizeFilter::Lanczos: return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
  }
  return 0;
}

// For every output position the first input position and its coefficients, `stride` apart.
struct Taps {
  std::vector<int32_t> first, count, coefficients;
  int64_t stride = 0;

  Taps(int64_t size, int64_t new_size, ResizeFilter filter) {
    const double scale = double(size) / double(new_size), reduction = std::max(scale, 1.0);
    const double support = support_of(filter) * reduction;
    stride = int64_t(std::ceil(support)) * 2 + 1;
    first.resize(size_t(new_size));
    count.resize(size_t(new_size));
    coefficients.resize(size_t(new_size * stride));
    std::vector<double> weights(size_t(stride), 0.0);
    for (int64_t i = 0; i < new_size; i++) {
      const double center = (double(i) + 0.5) * scale;
      const int64_t begin = std::max<int64_t>(int64_t(center - support + 0.5), 0);
      const int64_t end = std::min(int64_t(center + support + 0.5), size);
      double sum = 0;
      for (int64_t j = begin; j < end; j++) sum += weights[size_t(j - begin)] = weight_of(filter, (double(j) - center + 0.5) / reduction);
      first[size_t(i)] = int32_t(begin);
      count[size_t(i)] = int32_t(end - begin);
      for (int64_t j = 0; j < end - begin; j++) {
        const double w = weights[size_t(j)] / sum * (1 << kFraction);
        coefficients[size_t(i * stride + j)] = int32_t(w < 0 ? w - 0.5 : w + 0.5);  // halves away from zero
      }
    }
  }
};

uint8_t round_to_byte(int32_t sum) { return uint8_t(std::clamp(sum >> kFraction, 0, 255)); }

template <int C>
void filter_row(const uint8_t* from, uint8_t* to, const Taps& taps) {
  for (size_t i = 0; i < taps.first.size(); i++) {
    const uint8_t* pixel = from + int64_t(taps.first[i]) * C;
    const int32_t* k = taps.coefficients.data() + int64_t(i) * taps.stride;
    int32_t sums[C];
    for (int c = 0; c < C; c++) sums[c] = 1 << (kFraction - 1);
    for (int32_t j = 0; j < taps.count[i]; j++)
      for (int c = 0; c < C; c++) sums[c] += k[j] * pixel[j * C + c];
    for (int c = 0; c < C; c++) to[i * C + size_t(c)] = round_to_byte(sums[c]);
  }
}

void filter_columns(const uint8_t* from, uint8_t* to, int64_t row_bytes, const Taps& taps) {
  std::vector<int32_t> sums(static_cast<size_t>(row_bytes));
  for (size_t i = 0; i < taps.first.size(); i++) {
    std::fill(sums.begin(), sums.end(), 1 << (kFraction - 1));
    for (int32_t j = 0; j < taps.count[i]; j++) {
      const uint8_t* row = from + (taps.first[i] + j) * row_bytes;
      const int32_t k = taps.coefficients[size_t(int64_t(i) * taps.stride + j)];
      for (int64_t b = 0; b < row_bytes; b++) sums[size_t(b)] += k * row[b];
    }
    for (int64_t b = 0; b < row_bytes; b++) to[int64_t(i) * row_bytes + b] = round_to_byte(sums[size_t(b)]);
  }
}

}  // namespace

void resize_pixels(const uint8_t* from, int64_t width, int64_t height, int64_t channels, uint8_t* to, int64_t new_width,
                   int64_t new_height, ResizeFilter filter) {
  DF_CHECK(channels >= 1 && channels <= 4, "resize: channels must be 1 to 4, got %lld", static_cast<long long>(channels));
  for (const int64_t side : {width, height, new_width, new_height})
    DF_CHECK(side >= 1 && side <= kLongestSide, "resize: sides must be 1 to %lld pixels, got %lld",
             static_cast<long long>(kLongestSide), static_cast<long long>(side));
  std::vector<uint8_t> between;
  const uint8_t* rows = from;
  if (new_width != width) {
    const Taps taps(width, new_width, filter);
    uint8_t* target = to;
    if (new_height != height) {
      between.resize(size_t(height * new_width * channels));
      target = between.data();
    }
    using RowFilter = void (*)(const uint8_t*, uint8_t*, const Taps&);
    constexpr RowFilter kFilters[] = {filter_row<1>, filter_row<2>, filter_row<3>, filter_row<4>};
    for (int64_t y = 0; y < height; y++)
      kFilters[channels - 1](from + y * width * channels, target + y * new_width * channels, taps);
    rows = target;
  }
  if (new_height != height) {
    filter_columns(rows, to, new_width * channels, Taps(height, new_height, filter));
  } else if (new_width == width) {
    std::memcpy(to, from, size_t(width * height * channels));
  }
}

}  // namespace df
