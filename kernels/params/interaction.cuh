// The parameters of interaction.cu.
#pragma once

#include <stdint.h>

#include "params/pairs.cuh"

// The most threads of a block.
constexpr int kThreads = 128;
// Features whose gradients a thread has in registers, four columns of each.
constexpr int kGradRows = 16;
// Threads of a block that copies.
constexpr int kCopyThreads = 256;

// The forward pass.
struct InteractionForward {
  InteractionForwardMatrices<float> matrices;
  uint32_t batch_size;
  uint32_t team_threads;
  // The distance of features in shared memory.
  uint32_t pitch;
  // Threads that share a tile of pairs.
  uint32_t slices;
};

// The backward pass.
struct InteractionBackward {
  InteractionBackwardMatrices<float> matrices;
  uint32_t batch_size;
  uint32_t team_threads;
};

// to[r][c] = from[r][c].
template <typename E>
struct InteractionCopy {
  const E* from;
  E* to;
  uint64_t from_ld;
  uint64_t to_ld;
  uint64_t rows;
  uint64_t cols;
};
