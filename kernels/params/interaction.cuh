// The parameters of interaction.cu.
#pragma once

#include <stdint.h>

#include "params/pairs.cuh"

// The largest number of threads in a block.
constexpr int kThreads = 128;
// The number of features whose gradients a thread has in registers, four columns of each.
constexpr int kGradRows = 16;
// The number of threads in a block of the copy kernel.
constexpr int kCopyThreads = 256;

// The parameters of the forward pass.
struct InteractionForward {
  InteractionForwardMatrices<float> matrices;
  uint32_t batch_size;
  uint32_t team_threads;
  // The leading dimension of features in shared memory.
  uint32_t pitch;
  // The number of threads that share a tile of pairs.
  uint32_t slices;
};

// The parameters of the backward pass.
struct InteractionBackward {
  InteractionBackwardMatrices<float> matrices;
  uint32_t batch_size;
  uint32_t team_threads;
};

// The parameters of `to[r][c] = from[r][c]`.
template <typename E>
struct InteractionCopy {
  const E* from;
  E* to;
  // The word that is set if a value is not finite, or null.
  uint64_t* non_finite;
  uint64_t from_ld;
  uint64_t to_ld;
  uint64_t rows;
  uint64_t cols;
};
