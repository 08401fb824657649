// The parameters of interaction_tiled.cu.
#pragma once

#include <stdint.h>

#include "params/pairs.cuh"

// The number of threads in a block.
constexpr int kThreads = 256;
// The number of features, or of columns of their gradients, in a tile.
constexpr int kSide = 64;

// The parameters of the forward pass.
template <typename E>
struct InteractionTiledForward {
  InteractionForwardMatrices<E> matrices;
};

// The parameters of the backward pass.
template <typename E>
struct InteractionTiledBackward {
  InteractionBackwardMatrices<E> matrices;
};
