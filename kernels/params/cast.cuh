// The parameters of cast.cu, shared with src/backend/cuda/cast.rs.
#pragma once

#include <stdint.h>

// The number of threads in a block.
constexpr int kThreads = 256;
// The number of elements in a thread's vectorised access.
constexpr int kRun = 4;

// The parameters of `to[r][c] = factor * from[r][c]`.
template <typename A, typename B>
struct Cast {
  const A* from;
  B* to;
  uint64_t from_ld;
  uint64_t to_ld;
  uint64_t rows;
  uint64_t cols;
  // The factor, a power of two.
  float factor;
};
