// What the mma.sync kernels of products share: tiles of 16-bit operands in shared memory and the warps' places in them.
#pragma once
#include "cuda/gpu/host.cuh"
#include "cuda/gpu/ptx.cuh"

namespace df::IF_CUDA_NAMESPACE {

/// A block of WarpsM × WarpsN warps makes BM × BN results, 64 steps of K at a time, `Stages` of them in flight.
template <int BM_, int BN_, int WarpsM_, int WarpsN_, int Stages_> struct Tile {
  static constexpr int BM = BM_, BN = BN_, BK = 64, warps_m = WarpsM_, warps_n = WarpsN_, stages = Stages_;
  static constexpr int threads = 32 * warps_m * warps_n;
  static constexpr int MT = BM / warps_m / 16, NT = BN / warps_n / 8;  // mma tiles per warp
};
using LargeTile = Tile<128, 128, 2, 4, 3>;
using MiddleTile = Tile<128, 64, 4, 2, 4>;
using SmallTile = Tile<64, 64, 2, 2, 4>;

/// Rows of `Width` values; the 16-byte chunk c of row r lies at c ^ (r % 8), so that the eight rows of an ldmatrix and the
/// chunks of a row copy touch all 32 banks once.
template <int Width> GPU_FN int swizzled(int row, int chunk) { return row * Width + ((chunk ^ (row & 7)) << 3); }

/// Row and column in the tile of this thread's pair of values (j: mma column tile; h: upper or lower half).
template <class Shape> struct Fragment {
  int row0, column0;
  GPU_FN explicit Fragment(int thread)
      : row0(thread / 32 / Shape::warps_n * (Shape::MT * 16) + thread % 32 / 4),
        column0(thread / 32 % Shape::warps_n * (Shape::NT * 8) + thread % 4 * 2) {}
  template <class F> GPU_FN void for_each_pair(float (&acc)[Shape::MT][Shape::NT][4], F&& f) const {
#pragma unroll
    for (int i = 0; i < Shape::MT; i++)
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < Shape::NT; j++)
          f(row0 + 16 * i + 8 * h, column0 + 8 * j, (i * 2 + h) * Shape::NT + j, acc[i][j][2 * h], acc[i][j][2 * h + 1]);
  }
};

}  // namespace df::IF_CUDA_NAMESPACE
