// What cast.cu and src/backend/cuda/cast.rs share.
#pragma once

#include <stdint.h>

// Threads of a block.
constexpr int kThreads = 256;
// Elements that a thread takes at once.
constexpr int kRun = 4;

// to[r][c] = factor * from[r][c].
template <typename A, typename B>
struct Cast {
  const A* from;
  B* to;
  uint64_t from_ld;
  uint64_t to_ld;
  uint64_t rows;
  uint64_t cols;
  // A power of two.
  float factor;
};
