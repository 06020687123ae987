// The weight gradient as matrix products over pixels: a register tile of kTileRows outputs × one panel of inputs for one
// tap. Partial sums of a pair of items are complete before they meet those of other pairs, in the order of tree_sum.
#pragma once

/// The type that gradients of T are multiplied in, where pairs of bf16 have no instruction: float.
template <class T, bool WIDENS = Product<T>::widens> struct GradientOperand {
  typedef T Type;
};
template <class T> struct GradientOperand<T, true> {
  typedef float Type;
};

constexpr int kTileValues = kTileRows * kPanel;
constexpr int kMostLevels = 64;

/// What becomes of the partial sums of a pair of items: those of earlier pairs, the latest first, are added on their left,
/// and the sum is kept in `to`, or after the last pair added to the gradient. Pointers to the same place of every slot.
struct PairFold {
  int count = 0;
  const float* left[kMostLevels];
  float* to = nullptr;
};

/// How the sums of pair p of `pairs` fold, like a binary counter: p's trailing ones are complete subtrees on its left;
/// the last pair closes all that are open. slot(level): partial sums that wait.
template <class Slot> DF_INLINE PairFold fold_of(int64_t p, int64_t pairs, const Slot& slot) {
  const int depth = __builtin_popcountll(uint64_t(p)), trailing = __builtin_ctzll(~uint64_t(p));
  const bool last = p + 1 == pairs;
  PairFold f;
  f.count = last ? depth : trailing;
  for (int i = 0; i < f.count; i++) f.left[i] = slot(depth - 1 - i);
  f.to = last ? nullptr : slot(depth - f.count);
  return f;
}

/// Where a tile of sums goes: to `partial`, or, when the sums of the pair are `complete`, through `fold` to dw.
struct GradientTarget {
  float* partial;              // kTileValues
  bool resume, complete;
  float scale;
  const PairFold* fold;
  int64_t offset;              // of the tile in the slots
  float* dw;
  int64_t dw_stride;
  int rows, columns;           // of dw
};

/// dw += a tile; what is outside of dw is left.
template <int VECTORS>
DF_INLINE void add_tile(float* dw, int64_t stride, int rows, int columns, const Vec (&acc)[kTileRows][VECTORS]) {
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows; i++) {
    if (i >= rows) break;
    float* row = dw + i * stride;
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) {
      const int c = j * kLanes;
      if (j + 1 < VECTORS || columns == VECTORS * kLanes) store(row + c, load(row + c) + acc[i][j]);
      else store_n(row + c, load_n(row + c, columns - c) + acc[i][j], columns - c);
    }
  }
}

/// Σ over `segments` × `steps` of K of a ⊗ b for the first VECTORS vectors of a panel. a: kTileRows units per step; both
/// advance by their step, and by their segment stride.
template <class T, int VECTORS>
__attribute__((noinline)) void gradient_tile(int64_t segments, int64_t steps, const T* a, int64_t a_step,
                                             int64_t a_segment, const T* b, int64_t b_step, int64_t b_segment,
                                             const GradientTarget& t) {
  typedef Product<T> P;
  Vec acc[kTileRows][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) acc[i][j] = t.resume ? load(t.partial + i * kPanel + j * kLanes) : set1(0);
  if (t.complete && !t.fold->to)
    for (int i = 0; i < t.rows; i++)
      for (int c = 0; c < t.columns; c += 16) __builtin_prefetch(t.dw + i * t.dw_stride + c, 1);
  for (int64_t s = 0; s < segments; s++) {
    const T *pa = a + s * a_segment, *pb = b + s * b_segment;
#pragma GCC unroll 2
    for (int64_t k = 0; k < steps; k++) {
      Vec v[VECTORS];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) v[j] = P::b(pb + j * kLanes * P::unit);
#pragma GCC unroll 8
      for (int i = 0; i < kTileRows; i++) {
        const Vec w = P::a(pa + i * P::unit);
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) acc[i][j] = P::fma(w, v[j], acc[i][j]);
      }
      pa += a_step;
      pb += b_step;
    }
  }
  float* to = t.partial;
  if (t.complete) {
    const Vec scale = set1(t.scale);
#pragma GCC unroll 8
    for (int i = 0; i < kTileRows; i++)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) acc[i][j] = rounded_product(acc[i][j], scale);
    for (int f = 0; f < t.fold->count; f++) {
      const float* left = t.fold->left[f] + t.offset;
#pragma GCC unroll 8
      for (int i = 0; i < kTileRows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) acc[i][j] = load(left + i * kPanel + j * kLanes) + acc[i][j];
    }
    if (!t.fold->to) return add_tile(t.dw, t.dw_stride, t.rows, t.columns, acc);
    to = t.fold->to + t.offset;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) store(to + i * kPanel + j * kLanes, acc[i][j]);
}

template <class T, int VECTORS = kTileVectors>
DF_INLINE void run_gradient_tile(int64_t segments, int64_t steps, const T* a, int64_t a_step, int64_t a_segment,
                                 const T* b, int64_t b_step, int64_t b_segment, const GradientTarget& t) {
  if constexpr (VECTORS > 1) {
    if (t.columns <= (VECTORS - 1) * kLanes)
      return run_gradient_tile<T, VECTORS - 1>(segments, steps, a, a_step, a_segment, b, b_step, b_segment, t);
  }
  gradient_tile<T, VECTORS>(segments, steps, a, a_step, a_segment, b, b_step, b_segment, t);
}

/// The packed images of a problem, for operands of type T.
template <class T> struct Images {
  static constexpr int unit = Product<T>::unit;
  const WeightGradientProblem& g;
  int64_t x_rows, x_columns;
  explicit DF_INLINE Images(const WeightGradientProblem& problem)
      : g(problem), x_rows(g.out_height + g.kernel_h - 1), x_columns(g.out_width + g.kernel_w - 1) {}
  /// Pixels have no neighbours, so that the rows of an image follow each other.
  DF_INLINE bool joined() const { return g.kernel_h == 1 && g.kernel_w == 1 && g.padding == 0; }
  /// A single item of a pair, which is cut into halves.
  DF_INLINE bool halved(int64_t image) const { return unit == 2 && 2 * image + 1 == g.items; }
  /// Rows of dy in an image.
  DF_INLINE int64_t rows(int64_t image) const { return halved(image) ? (g.out_height + 1) / 2 : g.out_height; }
  DF_INLINE int64_t item(int64_t image, int e) const { return halved(image) ? 2 * image : image * unit + e; }
  /// The row of the item where element e of the image's units begins.
  DF_INLINE int64_t first_row(int64_t image, int e) const { return halved(image) ? e * rows(image) : 0; }
  /// How many of the rows [row, row + most) of an image of dy (or of x when joined) have every element, 1 at least.
  DF_INLINE int64_t full_rows(int64_t image, int64_t row, int64_t most) const {
    const int64_t full = smaller(rows(image), g.out_height - first_row(image, unit - 1)) - row;
    return full < 1 ? 1 : smaller(full, most);
  }
  DF_INLINE T* x(int64_t panel, int64_t image, int64_t row) const {
    return static_cast<T*>(g.packed_x) + (((panel * g.images + image) * x_rows + row) * x_columns) * kPanel * unit;
  }
  DF_INLINE T* dy(int64_t block, int64_t image, int64_t row) const {
    return static_cast<T*>(g.packed_dy) +
           (((block * g.images + image) * g.out_height + row) * g.out_width) * kTileRows * unit;
  }
};

// out[i] = the units of n channels of one pixel; a null source is zero.
DF_INLINE void pack_units(float* out, const float* const (&source)[1], int n) {
  for (int i = 0; i < n; i++) out[i] = source[0] ? source[0][i] : 0;
}
DF_INLINE void pack_units(float* out, const bf16* const (&source)[1], int n) {
  uint32_t* to = reinterpret_cast<uint32_t*>(out);
  for (int i = 0; i < n; i++) to[i] = source[0] ? uint32_t(source[0][i].bits) << 16 : 0;
}
DF_INLINE void pack_units(bf16* out, const bf16* const (&source)[2], int n) {
  uint32_t* to = reinterpret_cast<uint32_t*>(out);
  if (source[0] && source[1])
    for (int i = 0; i < n; i++) to[i] = source[0][i].bits | uint32_t(source[1][i].bits) << 16;
  else
    for (int i = 0; i < n; i++)
      to[i] = (source[0] ? source[0][i].bits : 0) | (source[1] ? uint32_t(source[1][i].bits) << 16 : 0);
}

// Eight units of a pixel in one store.
typedef uint16_t HalfWords __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(32)));
DF_INLINE void pack_eight(float* out, const float* const (&source)[1]) { __builtin_memcpy(out, source[0], 32); }
DF_INLINE void pack_eight(float* out, const bf16* const (&source)[1]) {
  const Words w = __builtin_convertvector(read<HalfWords>(source[0]), Words) << 16;
  __builtin_memcpy(out, &w, 32);
}
DF_INLINE void pack_eight(bf16* out, const bf16* const (&source)[2]) {
  const Words low = __builtin_convertvector(read<HalfWords>(source[0]), Words);
  const Words w = low | __builtin_convertvector(read<HalfWords>(source[1]), Words) << 16;
  __builtin_memcpy(out, &w, 32);
}

/// The rows [begin, end) of the images of x, with a border of zeros.
template <class From> void pack_gradient_x(const WeightGradientProblem* problem, int64_t begin, int64_t end) {
  typedef typename GradientOperand<From>::Type T;
  constexpr int unit = Product<T>::unit;
  const Images<T> images(*problem);
  const WeightGradientProblem& g = *problem;
  const bool joined = images.joined();
  for (int64_t panel = 0; panel * kPanel < g.in; panel++) {
    const int n = int(smaller<int64_t>(kPanel, g.in - panel * kPanel));
    for (int64_t r = begin, rows = 1; r < end; r += rows) {
      const int64_t image = r / images.x_rows, row = r % images.x_rows;
      rows = 1;
      if (row >= images.rows(image) + g.kernel_h - 1) continue;  // of half an item
      if (joined) rows = images.full_rows(image, row, end - r);
      T* out = images.x(panel, image, row);
      const From* source[unit];
      for (int e = 0; e < unit; e++) {
        const int64_t y = images.first_row(image, e) + row - g.padding;
        const bool inside = uint64_t(y) < uint64_t(g.height);
        source[e] = inside ? static_cast<const From*>(g.x) +
                                 (images.item(image, e) * g.height + y) * g.width * g.x_stride + panel * kPanel
                           : nullptr;
      }
      const From* pixel[unit] = {};
      const int64_t width = rows * g.width, columns = width + images.x_columns - g.width;
      for (int64_t c = 0; c < columns; c++, out += kPanel * unit) {
        const int64_t column = c - g.padding;
        const bool inside = uint64_t(column) < uint64_t(width);
        for (int e = 0; e < unit; e++) pixel[e] = inside && source[e] ? source[e] + column * g.x_stride : nullptr;
        if (n == kPanel) pack_units(out, pixel, kPanel);
        else pack_units(out, pixel, n);
      }
    }
  }
}

template <class From> void pack_gradient_dy(const WeightGradientProblem* problem, int64_t begin, int64_t end) {
  typedef typename GradientOperand<From>::Type T;
  constexpr int unit = Product<T>::unit;
  const Images<T> images(*problem);
  const WeightGradientProblem& g = *problem;
  for (int64_t block = 0; block * kTileRows < g.out; block++) {
    const int n = int(smaller<int64_t>(kTileRows, g.out - block * kTileRows));
    for (int64_t r = begin, rows = 1; r < end; r += rows) {
      const int64_t image = r / g.out_height, row = r % g.out_height;
      rows = 1;
      if (row >= images.rows(image)) continue;
      rows = images.full_rows(image, row, end - r);
      T* out = images.dy(block, image, row);
      const From* pixel[unit];
      for (int e = 0; e < unit; e++) {
        const int64_t y = images.first_row(image, e) + row;
        pixel[e] = y < g.out_height ? static_cast<const From*>(g.dy) +
                                          (images.item(image, e) * g.out_height + y) * g.out_width * g.dy_stride +
                                          block * kTileRows
                                    : nullptr;
      }
      const int64_t columns = rows * g.out_width;
      int64_t c = 0;
      // what eight units write behind a block's six is written again by the next pixel
      if (block * kTileRows + 8 <= g.out && pixel[0] && pixel[unit - 1])
        for (; c + 1 < columns; c++, out += kTileRows * unit) {
          pack_eight(out, pixel);
          for (int e = 0; e < unit; e++) pixel[e] += g.dy_stride;
        }
      for (; c < columns; c++, out += kTileRows * unit) {
        if (n == kTileRows) pack_units(out, pixel, kTileRows);
        else pack_units(out, pixel, n);
        for (int e = 0; e < unit; e++)
          if (pixel[e]) pixel[e] += g.dy_stride;
      }
    }
  }
}

template <class From>
void weight_gradient(const WeightGradientProblem* problem, int64_t panel, int64_t begin, int64_t end, float* slots) {
  typedef typename GradientOperand<From>::Type T;
  constexpr int unit = Product<T>::unit;
  const Images<T> images(*problem);
  const WeightGradientProblem& g = *problem;
  const int64_t taps = g.kernel_h * g.kernel_w, pairs = (g.items + 1) / 2, pair_images = 2 / unit;
  const int64_t slot_values = (end - begin) * taps * kTileValues;
  // the rows of a pair's images follow each other when taps have no neighbours: one segment
  const bool joined = images.joined();
  const int64_t b_segment = images.x_columns * kPanel * unit, a_segment = g.out_width * kTileRows * unit;
  GradientTarget t;
  t.scale = g.scale;
  t.dw_stride = taps * g.in;
  t.columns = int(smaller<int64_t>(kPanel, g.in - panel * kPanel));
  for (int64_t p = 0; p < pairs; p++) {
    const PairFold fold = fold_of(p, pairs, [&](int level) DF_LAMBDA_INLINE { return slots + level * slot_values; });
    t.fold = &fold;
    float* partial = slots + __builtin_popcountll(uint64_t(p)) * slot_values;
    const int64_t first_image = p * pair_images, end_image = smaller(first_image + pair_images, g.images);
    for (int64_t image = first_image; image < end_image; image += joined ? pair_images : 1) {
      const int64_t image_rows = images.rows(image) * (joined ? end_image - image : 1);
      for (int64_t row = 0; row < image_rows; row += g.block_rows) {
        const int64_t rows = smaller(g.block_rows, image_rows - row);
        const int64_t segments = joined ? 1 : rows, steps = joined ? rows * g.out_width : g.out_width;
        t.resume = image > first_image || row > 0;
        t.complete = (joined || image + 1 == end_image) && row + rows == image_rows;
        for (int64_t block = begin; block < end; block++) {
          const T* a = images.dy(block, image, row);
          t.rows = int(smaller<int64_t>(kTileRows, g.out - block * kTileRows));
          for (int64_t tap = 0; tap < taps; tap++) {
            const T* b = images.x(panel, image, row + tap / g.kernel_w) + tap % g.kernel_w * kPanel * unit;
            t.offset = ((block - begin) * taps + tap) * kTileValues;
            t.partial = partial + t.offset;
            t.dw = g.dw + (block * kTileRows * taps + tap) * g.in + panel * kPanel;
            run_gradient_tile<T>(segments, steps, a, kTileRows * unit, a_segment, b, kPanel * unit, b_segment, t);
          }
        }
      }
    }
  }
}

template <class T>
void column_sums(float* sums, const void* x, int64_t stride, int64_t rows, int64_t channels) {
  const T* first = static_cast<const T*>(x);
  for_vectors(channels, [&](int64_t c, int n) DF_LAMBDA_INLINE { store_some(sums + c, set1(0), n); });
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const T* p = first + r * stride;
    for_vectors(channels, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      const Vec upper = load_some(p + c, n) + load_some(p + stride + c, n);
      const Vec lower = load_some(p + 2 * stride + c, n) + load_some(p + 3 * stride + c, n);
      store_some(sums + c, load_some(sums + c, n) + (upper + lower), n);
    });
  }
  for (; r < rows; r++)
    for_vectors(channels, [&](int64_t c, int n) DF_LAMBDA_INLINE {
      store_some(sums + c, load_some(sums + c, n) + load_some(first + r * stride + c, n), n);
    });
}

constexpr ProductsBackwardKernels kProductsBackward = {
    {Product<GradientOperand<float>::Type>::unit, Product<GradientOperand<bf16>::Type>::unit},
    {int(sizeof(GradientOperand<float>::Type)), int(sizeof(GradientOperand<bf16>::Type))},
    {pack_gradient_x<float>, pack_gradient_x<bf16>},
    {pack_gradient_dy<float>, pack_gradient_dy<bf16>},
    {weight_gradient<float>, weight_gradient<bf16>},
    {column_sums<float>, column_sums<bf16>},
};
