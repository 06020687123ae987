// The sampler's step. Dynamic thresholding (Saharia et al. 2022, section 2.3) finds its quantile by radix select: exact,
// and its integer counts do not depend on the order of threads.
#include "cuda/cuda_backend.h"
#include "cuda/map.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

constexpr int kSelectThreads = 512;
constexpr int kBins = 2048;  // 11 bits; the sign is 0

GPU_FN float clamp(float v, float limit) { return v < -limit ? -limit : v > limit ? limit : v; }  // NaN stays

// x0 before dynamic thresholding.
struct Prediction {
  Rows<const float> x;
  Values model;
  int64_t conditional;  // rows from an item's output to that with the text; 0: no guidance
  float sample_scale, output_scale, guidance, limit;  // limit: of clipping, or infinity

  GPU_FN float at(int64_t row, int64_t column) const {
    float m = model.at(row, column);
    if (conditional) m += guidance * (model.at(row + conditional, column) - m);
    return clamp(sample_scale * x[row][column] + output_scale * m, limit);
  }
};

// The bits of |x0|: of one order with the values, NaN above infinity.
struct Magnitudes {
  uint32_t* bits;
  Prediction predicted;
  int64_t columns;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    bits[row * columns + column] = __float_as_uint(fabsf(predicted.at(row, column)));
  }
};

struct SelectShared {
  unsigned histogram[kBins];
  unsigned warp_totals[kSelectThreads / 32];
  unsigned bin, before;  // where the rank lies, and how many values are in lower bins
  unsigned count;        // of values that the bin holds
  unsigned next, nan;
};

// The limit of an item: the value of a rank, interpolated linearly to the next (torch.quantile), within [1, most].
__global__ void __launch_bounds__(kSelectThreads, 2)
limit_kernel(float* limits, const uint32_t* magnitudes, unsigned n, unsigned rank, float fraction, float most) {
  SelectShared& s = gpu::dynamic_shared<SelectShared>();
  const uint32_t* values = magnitudes + int64_t(blockIdx.x) * n;
  const unsigned thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  uint32_t found = 0;         // the upper bits of the value
  unsigned remaining = rank;  // among the values that begin with them
  if (thread == 0) s.next = 0x7fffffff, s.nan = 0;
  for (int shift = 20; shift >= 0; shift -= 10) {
    const unsigned bins = shift == 20 ? 2048 : 1024;
    for (unsigned i = thread; i < kBins; i += kSelectThreads) s.histogram[i] = 0;
    __syncthreads();
    for (unsigned i = thread; i < n; i += kSelectThreads) {
      const uint32_t v = values[i];
      if (shift == 20 && v > 0x7f800000u) atomicExch(&s.nan, 1u);
      if (shift == 20 || v >> (shift + 10) == found) atomicAdd(&s.histogram[v >> shift & (bins - 1)], 1u);
    }
    __syncthreads();
    unsigned counts[4], sum = 0;
    for (int i = 0; i < 4; ++i) sum += counts[i] = s.histogram[4 * thread + i];
    unsigned upto = sum;  // of the warp's threads up to this one
    for (unsigned d = 1; d < 32; d *= 2) {
      const unsigned other = __shfl_up_sync(~0u, upto, d);
      if (lane >= d) upto += other;
    }
    if (lane == 31) s.warp_totals[warp] = upto;
    __syncthreads();
    unsigned before = upto - sum;
    for (unsigned w = 0; w < warp; ++w) before += s.warp_totals[w];
    for (int i = 0; i < 4; ++i) {
      if (remaining >= before && remaining - before < counts[i])
        s.bin = 4 * thread + i, s.before = before, s.count = counts[i];
      before += counts[i];
    }
    __syncthreads();
    found = shift == 20 ? s.bin : found << 10 | s.bin;
    remaining -= s.before;
  }
  const bool alone = remaining + 1 == s.count && rank + 1 < n;  // the next value is another one
  if (alone) {
    uint32_t next = 0x7fffffff;
    for (unsigned i = thread; i < n; i += kSelectThreads)
      if (values[i] > found) next = min(next, values[i]);
    atomicMin(&s.next, next);
    __syncthreads();
  }
  if (thread != 0) return;
  const float low = __uint_as_float(found), high = alone ? __uint_as_float(s.next) : low;
  float limit = low + fraction * (high - low);
  if (limit < 1) limit = 1;
  if (limit > most) limit = most;
  limits[blockIdx.x] = s.nan ? NAN : limit;
}

struct Step {
  Rows<float> prev, x0;
  Rows<const float> noise;
  Prediction predicted;
  const float* limits;  // of every item, or null
  int64_t pixels, channels;
  float x0_coef, x_coef, sigma, min_log, max_log;
  DdpmStep::Variance variance;

  // The learned output becomes a standard deviation as in diffusers scheduling_ddpm.py (_get_variance, step).
  GPU_FN float deviation(int64_t row, int64_t column) const {
    if (variance == DdpmStep::Variance::Fixed) return sigma;
    const float v = predicted.model.at(row + predicted.conditional, channels + column);
    if (variance == DdpmStep::Variance::Learned) return sqrtf(v);
    const float f = (v + 1) * 0.5f;
    return expf(0.5f * (f * max_log + (1 - f) * min_log));
  }
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float start = predicted.at(row, column);
    if (limits) {
      const float limit = limits[row / pixels];
      start = clamp(start, limit) / limit;
    }
    float v = x0_coef * start + x_coef * predicted.x[row][column];
    if (noise.data) v += deviation(row, column) * noise[row][column];
    prev[row][column] = v;
    if (x0.data) x0[row][column] = start;
  }
};

}  // namespace

void CudaBackend::ddpm_step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise,
                            const DdpmStep& p) {
  const Device device = x.device();
  const int64_t batch = x.dim(0), channels = x.dim(3), pixels = x.dim(1) * x.dim(2), n = pixels * channels;
  const bool guided = model.dim(0) == 2 * batch, dynamic = p.threshold == DdpmStep::Threshold::Dynamic;
  const float limit = p.threshold == DdpmStep::Threshold::Clip ? p.clip_range : INFINITY;
  const Prediction predicted{rows<const float>(x), model, guided ? batch * pixels : 0, p.sample_scale, p.output_scale,
                             p.guidance, limit};
  Tensor limits, bits;
  if (dynamic) {
    DF_CHECK(n < int64_t(1) << 31, "ddpm_step: cuda: an image of 2^31 values or more");
    limits = Tensor::empty({batch}, DType::F32, device);
    bits = Tensor::empty({batch, n}, DType::I32, device);
    uint32_t* magnitudes = static_cast<uint32_t*>(bits.raw());
    map_single(device, batch * pixels, channels, Magnitudes{magnitudes, predicted, channels});
    const double position = double(p.ratio) * double(n - 1);
    const unsigned rank = unsigned(position);
    gpu::launch(limit_kernel, dim3(unsigned(batch)), dim3(kSelectThreads), sizeof(SelectShared), stream(device),
                limits.data<float>(), magnitudes, unsigned(n), rank, float(position - rank), p.max_value);
  }
  map_single(device, batch * pixels, channels,
             Step{rows<float>(prev), rows<float>(x0), rows<const float>(p.add_noise ? noise : Tensor()), predicted,
                  dynamic ? limits.data<float>() : nullptr, pixels, channels, p.x0_coef, p.x_coef, p.sigma, p.min_log,
                  p.max_log, p.variance});
}

}  // namespace df::IF_CUDA_NAMESPACE
