// The parameters of interaction_mma.cu.
#pragma once

#include <stdint.h>

#include "params/pairs.cuh"

// The most threads of a block.
constexpr int kThreads = 128;
// Features, or columns of their gradients, of a matrix product.
constexpr uint32_t kSide = 16;
// Bytes of each row that are multiplied at once.
constexpr uint32_t kDepthBytes = 32;
// Groups of kSide features whose gradients a warp has in registers, where features are few.
constexpr uint32_t kFewGroups = 2;
// Groups where features are many.
constexpr uint32_t kManyGroups = 4;

// The forward pass.
template <typename E>
struct InteractionMmaForward {
  InteractionForwardMatrices<E> matrices;
  uint32_t batch_size;
  uint32_t team_threads;
};

// The backward pass.
template <typename E>
struct InteractionMmaBackward {
  InteractionBackwardMatrices<E> matrices;
  uint32_t batch_size;
  uint32_t team_threads;
};
