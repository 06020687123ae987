// Layout of weights: row-major (O, kh, kw, Ip), Ip being I rounded up to 16-byte rows of 16-bit values, the rest zeros.
// One copy serves the plain kernels, mma.sync (K contiguous) and TMA.
#include <type_traits>

#include "cuda/cuda_backend.h"
#include "cuda/gemm/layout.h"
#include "cuda/gpu/ptx.cuh"

namespace df::IF_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kRowWarps = 4;    // rows per block of the quantising kernel
constexpr int kTile = 32, kTileRows = 8;

template <class To, class From> GPU_FN To convert(From v) {
  if constexpr (std::is_same_v<To, From>) return v;
  else return gpu::from_float<To>(gpu::to_float(v));
}

// Row r of `from` holds `in` values, row r of `to` holds `to_in`: eight per thread, with 16-byte accesses where the flags
// allow.
template <class To, class From>
__global__ void __launch_bounds__(kThreads, 4)
copy_rows_kernel(Rows<To> to, Rows<const From> from, int64_t rows, int in, int to_in, bool to_aligned, bool from_aligned) {
  const int chunks = (to_in + 7) / 8;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, row = i / chunks;
  const int column = int(i - row * chunks) * 8;
  if (row >= rows) return;
  gpu::Vec8<From> values{};
  const From* const source = from[row] + column;
  if (from_aligned && column + 8 <= in) {
    values = *reinterpret_cast<const gpu::Vec8<From>*>(source);
  } else {
#pragma unroll
    for (int j = 0; j < 8; j++)
      if (column + j < in) values.v[j] = source[j];
  }
  gpu::Vec8<To> result;
#pragma unroll
  for (int j = 0; j < 8; j++) result.v[j] = convert<To>(values.v[j]);
  To* const target = to[row] + column;
  if (to_aligned && column + 8 <= to_in) {
    *reinterpret_cast<gpu::Vec8<To>*>(target) = result;
  } else {
#pragma unroll
    for (int j = 0; j < 8; j++)
      if (column + j < to_in) target[j] = result.v[j];
  }
}

// to (in, taps, padded out) from the rows (out, taps), taps mirrored: one tile of one tap per block, through shared memory.
template <class To, class From>
__global__ void __launch_bounds__(kTile * kTileRows, 4)
transpose_kernel(To* to, Rows<const From> from, int out, int taps, int in, int padded_out) {
  GPU_SHARED(To[kTile][kTile + 1], tile);
  const int tap = int(blockIdx.z), o0 = int(blockIdx.x) * kTile, i0 = int(blockIdx.y) * kTile;
  const int lane = int(threadIdx.x), row = int(threadIdx.y);
  for (int r = row; r < kTile; r += kTileRows) {
    const int o = o0 + r, i = i0 + lane;
    tile[r][lane] = o < out && i < in ? convert<To>(from[int64_t(o) * taps + taps - 1 - tap][i]) : To{};
  }
  __syncthreads();
  for (int r = row; r < kTile; r += kTileRows) {
    const int o = o0 + lane, i = i0 + r;
    if (o < padded_out && i < in) to[(int64_t(i) * taps + tap) * padded_out + o] = tile[lane][r];
  }
}

// One warp per row; the arithmetic of quantize_row (cpu/quantize.h), bit for bit.
template <class From>
__global__ void __launch_bounds__(32 * kRowWarps, 4)
quantize_kernel(int8_t* q, float* scales, Rows<const From> from, int rows, int in, int padded_in) {
  const int row = int(blockIdx.x) * kRowWarps + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (row >= rows) return;
  float largest = 0;
  for (int i = lane; i < in; i += 32) largest = fmaxf(largest, fabsf(gpu::to_float(from[row][i])));
  float scale = gpu::warp_max(largest) / 127;
  if (!(scale >= 0x1p-126f)) scale = 0;
  for (int i = lane; i < padded_in; i += 32) {
    // adding and subtracting 1.5 * 2^23 rounds to nearest even
    const float rounded = scale != 0 && i < in ? (gpu::to_float(from[row][i]) / scale + 0x1.8p23f) - 0x1.8p23f : 0;
    q[int64_t(row) * padded_in + i] = int8_t(int(rounded));
  }
  if (lane == 0) scales[row] = scale;
}

template <class To>
__global__ void __launch_bounds__(kThreads, 4)
unpack_int8_kernel(Rows<To> to, const int8_t* q, const float* scales, int64_t rows, int in, int padded_in) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, row = i / in;
  const int column = int(i - row * in);
  if (row < rows) to[row][column] = gpu::from_float<To>(scales[row] * float(q[row * padded_in + column]));
}

// A multiple of eight values, eight per thread.
template <class To>
__global__ void __launch_bounds__(kThreads, 4) widen_kernel(To* to, const int8_t* q, int64_t count) {
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i >= count) return;
  const uint2 eight = *reinterpret_cast<const uint2*>(q + i);
  gpu::Vec8<To> result;
#pragma unroll
  for (int j = 0; j < 8; j++) result.v[j] = gpu::from_float<To>(float(int8_t((j < 4 ? eight.x : eight.y) >> (j % 4 * 8))));
  *reinterpret_cast<gpu::Vec8<To>*>(to + i) = result;
}

template <class To, class From>
void copy_rows(Rows<To> to, Rows<const From> from, int64_t rows, int64_t in, int64_t to_in, gpu::Stream s) {
  const auto aligned = [](const auto& r) {
    return reinterpret_cast<uintptr_t>(r.data) % 16 == 0 && r.stride * int64_t(sizeof(*r.data)) % 16 == 0;
  };
  gpu::launch(copy_rows_kernel<To, From>, dim3(blocks_for(rows * ((to_in + 7) / 8), kThreads)), dim3(kThreads), 0, s, to,
              from, rows, int(in), int(to_in), aligned(to), aligned(from));
}

Weight empty_weight(const Tensor& plain, int64_t out, int64_t in, DType dtype, DType stored) {
  const bool convolution = plain.shape().rank() == 4;
  Weight w;
  w.out = out;
  w.kernel_h = convolution ? plain.dim(1) : 1;
  w.kernel_w = convolution ? plain.dim(2) : 1;
  w.in = in;
  w.dtype = dtype;
  w.layout = kWeightLayout;
  DF_CHECK(cuda_padded_in(in) * w.kernel_h * w.kernel_w < (int64_t(1) << 31) && out < (int64_t(1) << 31),
           "pack: a weight must have fewer than 2^31 inputs and outputs, got (%lld, %lld, %lld, %lld)",
           static_cast<long long>(out), static_cast<long long>(w.kernel_h), static_cast<long long>(w.kernel_w),
           static_cast<long long>(in));
  w.data = Tensor::empty({out * w.kernel_h * w.kernel_w * cuda_padded_in(in)}, stored, plain.device());
  return w;
}

}  // namespace

void check_weight_layout(const char* op, const Weight& w) {
  if (w.layout != kWeightLayout)
    fail(ErrorCode::Internal, "%s: weight must be in layout %d of cuda, got layout %d: pack it with this backend", op,
         kWeightLayout, w.layout);
}

Tensor aligned_rows(const Tensor& x) {
  const int64_t in = x.shape()[-1], padded = cuda_padded_in(in);
  if (in == padded && x.row_stride() % 8 == 0 && reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0) return x;
  Shape shape = x.shape();
  shape.set(-1, padded);
  const Tensor wide = Tensor::empty(shape, x.dtype(), x.device());
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    copy_rows(rows<T>(wide), rows<const T>(x), x.rows(), in, padded, stream(x.device()));
  });
  return wide;
}

Tensor widened(const Weight& w, int64_t first, int64_t count) {
  const int64_t row = w.kernel_h * w.kernel_w * cuda_padded_in(w.in);
  const Tensor wide = Tensor::empty({count * row}, w.dtype, w.data.device());
  with_type(w.dtype, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(widen_kernel<T>, dim3(blocks_for(wide.numel() / 8, kThreads)), dim3(kThreads), 0, stream(w.data.device()),
                static_cast<T*>(wide.raw()), static_cast<const int8_t*>(w.data.raw()) + first * row, wide.numel());
  });
  return wide;
}

size_t CudaBackend::packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) {
  return cuda_packed_bytes(out, kernel_h, kernel_w, in, dtype);
}

Weight CudaBackend::pack(const Tensor& plain, DType dtype) {
  Weight w = empty_weight(plain, plain.dim(0), plain.dim(-1), dtype, dtype);
  const int64_t padded = cuda_padded_in(w.in);
  with_type(dtype, [&](auto to) {
    with_type(plain.dtype(), [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      copy_rows(Rows<To>{static_cast<To*>(w.data.raw()), padded}, rows<const From>(plain), plain.rows(), w.in, padded,
                stream(plain.device()));
    });
  });
  return w;
}

Weight CudaBackend::pack_transposed(const Tensor& plain, DType dtype) {
  Weight w = empty_weight(plain, plain.dim(-1), plain.dim(0), dtype, dtype);
  const int64_t taps = w.kernel_h * w.kernel_w, padded = cuda_padded_in(w.in);
  const auto tiles = [](int64_t n) { return unsigned((n + kTile - 1) / kTile); };
  DF_CHECK(tiles(w.out) <= 65535 && taps <= 65535,
           "pack_transposed: a weight of %lld inputs and %lld taps does not fit a grid", static_cast<long long>(w.out),
           static_cast<long long>(taps));
  with_type(dtype, [&](auto to) {
    with_type(plain.dtype(), [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      gpu::launch(transpose_kernel<To, From>, dim3(tiles(padded), tiles(w.out), unsigned(taps)), dim3(kTile, kTileRows), 0,
                  stream(plain.device()), static_cast<To*>(w.data.raw()), rows<const From>(plain), int(w.in), int(taps),
                  int(w.out), int(padded));
    });
  });
  return w;
}

Weight CudaBackend::pack_int8(const Tensor& plain, DType dtype) {
  Weight w = empty_weight(plain, plain.dim(0), plain.dim(1), dtype, DType::U8);
  w.scales = Tensor::empty({w.out}, DType::F32, plain.device());
  with_type(plain.dtype(), [&](auto from) {
    using From = decltype(from);
    gpu::launch(quantize_kernel<From>, dim3(blocks_for(w.out, kRowWarps)), dim3(32 * kRowWarps), 0, stream(plain.device()),
                static_cast<int8_t*>(w.data.raw()), w.scales.data<float>(), rows<const From>(plain), int(w.out), int(w.in),
                int(cuda_padded_in(w.in)));
  });
  return w;
}

void CudaBackend::unpack(Tensor& plain, const Weight& w) {
  check_weight_layout("unpack", w);
  const int64_t padded = cuda_padded_in(w.in);
  const gpu::Stream s = stream(plain.device());
  with_type(plain.dtype(), [&](auto to) {
    using To = decltype(to);
    if (w.int8()) {
      gpu::launch(unpack_int8_kernel<To>, dim3(blocks_for(plain.numel(), kThreads)), dim3(kThreads), 0, s,
                  rows<To>(plain), static_cast<const int8_t*>(w.data.raw()), static_cast<const float*>(w.scales.raw()),
                  plain.rows(), int(w.in), int(padded));
      return;
    }
    with_type(w.dtype, [&](auto from) {
      using From = decltype(from);
      copy_rows(rows<To>(plain), Rows<const From>{static_cast<const From*>(w.data.raw()), padded}, plain.rows(), w.in,
                w.in, s);
    });
  });
}

}  // namespace df::IF_CUDA_NAMESPACE
