// The parameters of dense_update.cu.
#pragma once

#include <stdint.h>

#include "params/optimizer.cuh"

// Threads of a block.
constexpr int kThreads = 256;
// Elements that a thread takes at once.
constexpr int kRun = 4;

// A step on dense parameters.
template <typename E>
struct DenseUpdate {
  const float* grad;
  float* parameters;
  // Null for kSgd.
  float* first;
  // Null except for kAdam.
  float* second;
  // The rounded parameters, or null.
  E* rounded;
  uint64_t len;
  // The factor of the gradient.
  float factor;
  float max_gradient;
  OptimizerStep step;
  StepPointers control;
};
