// The parameters of interaction_tiled.cu.
#pragma once

#include <stdint.h>

#include "params/pairs.cuh"

// Threads of a block.
constexpr int kThreads = 256;
// Features, or columns of their gradients, of a tile.
constexpr int kSide = 64;

// The forward pass.
template <typename E>
struct InteractionTiledForward {
  InteractionForwardMatrices<E> matrices;
};

// The backward pass.
template <typename E>
struct InteractionTiledBackward {
  InteractionBackwardMatrices<E> matrices;
};
