// What moves pixels and tokens: resampling by two, the layouts of the boundary, table rows.
#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"

namespace df {
namespace {

// Rows of an embedding per work item.
constexpr int64_t kTokenGrain = 64;

}  // namespace

void CpuBackend::resample(Tensor& y, const Tensor& x, Resample mode) {
  const int64_t width = y.dim(2), height = y.dim(1), channels = y.dim(3), x_width = x.dim(2), x_height = x.dim(1);
  const size_t bytes = size_t(channels) * dtype_size(x.dtype());
  parallel_for(y.dim(0) * height, [&](int64_t line, int) {
    const int64_t n = line / height, i = line % height;
    if (mode == Resample::NearestUp2) {
      const int64_t from = (n * x_height + i / 2) * x_width;
      for (int64_t j = 0; j < width; j++) std::memcpy(row_at(y, line * width + j), row_at(x, from + j / 2), bytes);
    } else {
      const int64_t from = (n * x_height + 2 * i) * x_width;
      for (int64_t j = 0; j < width; j++) {
        const int64_t p = from + 2 * j;
        const void* four[4] = {row_at(x, p), row_at(x, p + 1), row_at(x, p + x_width), row_at(x, p + x_width + 1)};
        kernels_.average4[int(x.dtype())](row_at(y, line * width + j), four, channels);
      }
    }
  });
}

void CpuBackend::nchw_to_nhwc(Tensor& y, const Tensor& x) {
  const int64_t channels = x.dim(1), height = x.dim(2), width = x.dim(3);
  const auto run = [&](auto* out) {
    using T = std::remove_reference_t<decltype(*out)>;
    parallel_for(x.dim(0) * height, [&](int64_t line, int) {
      const int64_t n = line / height, i = line % height;
      for (int64_t c = 0; c < channels; c++) {
        const float* in = x.data<float>() + ((n * channels + c) * height + i) * width;
        T* to = out + line * width * y.row_stride() + c;
        for (int64_t j = 0; j < width; j++) to[j * y.row_stride()] = from_float<T>(in[j]);
      }
    });
  };
  if (y.dtype() == DType::F32) run(y.data<float>());
  else run(y.data<BFloat16>());
}

void CpuBackend::nhwc_to_nchw(Tensor& y, const Tensor& x) {
  const int64_t channels = y.dim(1), height = y.dim(2), width = y.dim(3);
  const auto run = [&](const auto* in) {
    parallel_for(y.dim(0) * height, [&](int64_t line, int) {
      const int64_t n = line / height, i = line % height;
      for (int64_t c = 0; c < channels; c++) {
        float* out = y.data<float>() + ((n * channels + c) * height + i) * width;
        const auto* from = in + line * width * x.row_stride() + c;
        for (int64_t j = 0; j < width; j++) out[j] = to_float(from[j * x.row_stride()]);
      }
    });
  };
  if (x.dtype() == DType::F32) run(x.data<float>());
  else run(x.data<BFloat16>());
}

void CpuBackend::embedding(Tensor& y, const Tensor& ids, const Tensor& table) {
  const int32_t* id = ids.data<int32_t>();
  const int64_t columns = ids.shape().rank() ? ids.dim(-1) : 1, channels = table.dim(1);
  const auto kernel = kernels_.convert[int(y.dtype())][int(table.dtype())];
  parallel_ranges(ids.numel(), kTokenGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      kernel(row_at(y, i), row_at(table, id[i / columns * ids.row_stride() + i % columns]), channels);
  });
}

}  // namespace df
