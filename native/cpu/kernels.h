// The CPU kernels of one instruction set as a table of functions. The files that fill it are compiled with that
// instruction set's flags, so this header holds plain types only: an inline function here could be emitted by such a
// file and be the copy that the linker keeps for every CPU. Type indices are those of DType: 0 f32, 1 bf16, 2 f16.
#pragma once
#include <stdint.h>

#include "cpu/kernels_attention_backward.h"
#include "cpu/kernels_norm_backward.h"
#include "cpu/kernels_elementwise_backward.h"
#include "cpu/kernels_products_backward.h"
#include "cpu/kernels_training.h"
#include "cpu/kernels_winograd_backward.h"

namespace df {

/// Most kernel taps in one K block.
constexpr int kMaxBlockTaps = 16;

/// y = (x·w + bias + residual) * scale as an indirect matrix product: output row m (a pixel) reads, for every kernel
/// tap, one row of `in` channels of x, or `zeros` outside of the image. A linear layer has one tap and no geometry.
/// x, residual and y are of the kernel's type; strides are elements between rows.
struct GemmProblem {
  const void* x;
  int64_t x_stride;
  int64_t in;              ///< channels per tap; a multiple of the pack unit
  const void* weight;      ///< [panel][tap][in / unit][panel width][unit], of the kernel's type or int8
  const float* weight_scale;  ///< (out) for int8: factors of the weight's columns
  int64_t out;             ///< output columns
  const float* bias;       ///< (out) or null
  const void* residual;    ///< or null; may be y
  int64_t residual_stride;
  float scale;
  void* y;
  int64_t y_stride;
  const void* zeros;       ///< at least block_channels zeros
  int taps, kernel_w;      ///< kernel_h * kernel_w, kernel_w
  int direct;              ///< 1: row m of y reads row m of x; the geometry below is not used
  int64_t height, width, out_height, out_width;
  int64_t stride, padding;
  /// K is cut into blocks of `block_taps` whole taps, or of `block_channels` channels of one tap; the partial sums of
  /// several blocks meet in fp32 scratch.
  int block_taps;
  int64_t block_channels;
};

/// A 3×3 convolution of stride 1 and padding 1 by Winograd's F(tile×tile, 3×3), one block of output tiles at a time.
/// Tiles go through an image row by row, and through the items. Strides are in values.
struct WinogradProblem {
  GemmProblem conv;         ///< x, weight, epilogue, y, zeros, height, width; block_channels: K block of the products
  int64_t channels;         ///< of x, without the padding of conv.in
  int64_t tiles_y, tiles_x; ///< tiles of one image
  int64_t first, count;     ///< tiles of this block
  void* v;                  ///< transformed windows [(tile + 2)²][count][v_stride], of the multiplied type
  int64_t v_step, v_stride; ///< between positions, between tiles: at least conv.in, whole vectors
  float* m;                 ///< products [(tile + 2)²][count][m_stride]
  int64_t m_step, m_stride;
  int64_t u_step;           ///< between the 2 * (tile + 2) transformed weights of a pair of rows
};

/// The keys and values of one (batch, head) in one or two runs of rows.
struct AttentionKeys {
  const void* key[2];
  const void* value[2];
  int64_t key_stride[2], value_stride[2], tokens[2];
  int width;
  const int32_t* mask;  ///< (tokens[0] + tokens[1]) or null; the values of ignored keys are packed as zeros
};

/// Queries of one (batch, head) against packed keys.
struct AttentionRows {
  const void* q;
  int64_t q_stride;
  void* y;
  int64_t y_stride;
  int64_t rows, tokens;   ///< queries here, keys
  int width;
  const void* keys;       ///< as packed
  const void* values;
  const float* bias;      ///< (rows, tokens), or null
  int64_t bias_stride;
  const int32_t* mask;    ///< (tokens) or null
  float scale;
  int block_rows;         ///< queries whose scores are held at once
};

/// The forms of Winograd's convolution, most accurate first: F(tile×tile, 3×3), multiplied in float32 or bfloat16.
enum WinogradForm { kF4, kF8, kF2Bf16, kF4Bf16, kWinogradForms };

/// One form; null for types, and in instruction sets, that have no use for it.
struct WinogradKernels {
  int tile;        ///< outputs of one dimension: 2, 4 or 8
  int value_size;  ///< of what is multiplied: 4 float32, 2 bfloat16

  /// Tiles [begin, end) of a block, from x to v.
  void (*input[2])(const WinogradProblem*, int64_t begin, int64_t end);
  /// One panel at the 2 * (tile + 2) positions of a pair, 0 … tile / 2, of rows of the window, from v to m. u: as many
  /// times u_step values, 64-byte aligned.
  void (*multiply[2])(const WinogradProblem*, int64_t panel, int pair, void* u);
  /// Tiles [begin, end) of a block, from m to y.
  void (*output[2])(const WinogradProblem*, int64_t begin, int64_t end);
};

struct CpuKernels {
  int panel;      ///< output columns of a packed panel
  int tile_rows;  ///< rows of the register tile
  int unit[2];    ///< consecutive k stored side by side in a panel, per type
  int product_rate[2];  ///< multiply-adds of a type in the time of one of float32

  /// Rows [begin, end) × one panel. `partial`: (end - begin) * panel floats, 64-byte aligned; for several K blocks.
  void (*gemm[2])(const GemmProblem*, int64_t begin, int64_t end, int64_t panel, float* partial);
  /// The same for int8 weights. `widened`: a K block of one panel (block_taps * block_channels * panel) in the kernel's
  /// type, 64-byte aligned.
  void (*gemm_int8[2])(const GemmProblem*, int64_t begin, int64_t end, int64_t panel, float* partial, void* widened);
  WinogradKernels winograd[kWinogradForms];
  /// One tap of one panel. src: `rows` <= panel rows of `in` values of `type`, `row_step` elements apart.
  void (*pack[2])(void* dst, const void* src, int type, int64_t row_step, int rows, int64_t in);
  void (*unpack[2])(void* dst, int type, int64_t row_step, int rows, int64_t in, const void* src);

  /// keys: panels over tokens, [panel][width / unit][panel width][unit]; values: panels over width,
  /// [panel][token / unit][panel width][unit]; both sizes rounded up with zeros.
  void (*attention_pack[2])(const AttentionKeys*, void* keys, void* values);
  /// scores: block_rows * score_stride floats; weights: as many elements of the type.
  void (*attention[2])(const AttentionRows*, float* scores, void* weights, int64_t score_stride);

  /// Per channel Σx and Σx² over pixels, in double; the local sums are taken about a local mean, so that a large mean
  /// costs no digits.
  void (*channel_moments[2])(const void* x, int64_t stride, int64_t pixels, int64_t channels, double* sum,
                             double* squares);
  /// y = activation((x - mean) * a + b), mean, a and b per channel.
  void (*normalize[2])(void* y, int64_t y_stride, const void* x, int64_t x_stride, int64_t pixels, int64_t channels,
                       const float* mean, const float* a, const float* b, int activation);
  void (*layer_norm[2])(void* y, const void* x, int64_t channels, const float* gamma, const float* beta, float eps);
  void (*rms_norm[2])(void* y, const void* x, int64_t channels, const float* gamma, float eps);

  void (*activation[2])(void* y, const void* x, int64_t n, int kind);
  void (*gated_activation[2])(void* y, const void* gate, const void* up, int64_t n, int kind);
  /// [type of y][of x][of z]
  void (*axpby[2][2][2])(void* y, float a, const void* x, float b, const void* z, int64_t n);
  /// [to][from]
  void (*convert[3][3])(void* y, const void* x, int64_t n);
  /// 1 when every value is finite.
  int (*all_finite[3])(const void* x, int64_t n);
  /// y = (x0 + x1 + x2 + x3) / 4.
  void (*average4[2])(void* y, const void* const* x, int64_t n);

  NormBackwardKernels norm_backward;
  AttentionBackwardKernels attention_backward;
  ElementwiseBackwardKernels elementwise_backward;
  TrainingKernels training;
  ProductsBackwardKernels products_backward;
  WinogradBackwardKernels winograd_backward[2];  ///< kF4, kF8
};

extern const CpuKernels kernels_portable;
extern const CpuKernels kernels_avx2;
extern const CpuKernels kernels_avx512;
extern const CpuKernels kernels_avx512bf16;

}  // namespace df
