// How elementwise work is cut: by shape alone, never by the number of threads.
#pragma once
#include <algorithm>

#include "core/parallel.h"
#include "core/tensor.h"

namespace df {

/// Values of one work item.
constexpr int64_t kElementGrain = 16384;

/// Calls body(row, column, n) for pieces of rows; a tensor without gaps (`dense`) is one long row.
template <class F> void for_pieces(const Tensor& shape, bool dense, const F& body) {
  const int64_t columns = shape.shape().rank() ? shape.dim(-1) : 1, rows = shape.rows();
  if (dense) {
    parallel_ranges(shape.numel(), kElementGrain, [&](int64_t begin, int64_t end) { body(0, begin, end - begin); });
  } else {
    const int64_t grain = std::max<int64_t>(kElementGrain / std::max<int64_t>(columns, 1), 1);
    parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) body(r, 0, columns);
    });
  }
}

}  // namespace df
