// Sums in a fixed order.
#pragma once
#include "cuda/gpu/types.cuh"

namespace GPU_NAMESPACE {

/// df::tree_sum(0, n, leaf) without recursion: a binary counter of finished subtrees. n >= 1.
template <class Leaf>
GPU_FN float tree_sum(int n, const Leaf& leaf) {
  float done[32];
  int depth = 0;
  for (int i = 0; i < n; ++i) {
    float sum = leaf(i);
    for (int bit = i; bit & 1; bit >>= 1) sum = done[--depth] + sum;
    done[depth++] = sum;
  }
  float sum = done[--depth];
  while (depth) sum = done[--depth] + sum;
  return sum;
}

/// The order of parameter gradients (ops/backend.h): pairs of items, then their tree.
template <class Leaf>
GPU_FN float item_sum(int items, const Leaf& leaf) {
  return tree_sum((items + 1) / 2, [&](int pair) {
    const int n = 2 * pair;
    return n + 1 < items ? leaf(n) + leaf(n + 1) : leaf(n);
  });
}

}  // namespace GPU_NAMESPACE
