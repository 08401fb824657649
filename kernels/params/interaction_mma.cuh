// The parameters of interaction_mma.cu.
#pragma once

#include <stdint.h>

#include "params/pairs.cuh"

// The largest number of threads in a block.
constexpr int kThreads = 128;
// The number of features, or of columns of their gradients, in a product on the tensor cores.
constexpr uint32_t kSide = 16;
// The bytes of each row in one step of a product.
constexpr uint32_t kDepthBytes = 32;
// The number of groups of kSide features whose gradients a warp has in registers, where features
// are few.
constexpr uint32_t kFewGroups = 2;
// The number of groups where features are many.
constexpr uint32_t kManyGroups = 4;

// The parameters of the forward pass.
template <typename E>
struct InteractionMmaForward {
  InteractionForwardMatrices<E> matrices;
  uint32_t batch_size;
  uint32_t team_threads;
};

// The parameters of the backward pass.
template <typename E>
struct InteractionMmaBackward {
  InteractionBackwardMatrices<E> matrices;
  uint32_t batch_size;
  uint32_t team_threads;
};
