// The parameters of dense_update.cu.
#pragma once

#include <stdint.h>

#include "params/optimizer.cuh"

// The number of threads in a block.
constexpr int kThreads = 256;
// The number of elements in a thread's vectorised access.
constexpr int kRun = 4;

// The parameters of an optimizer step on dense parameters.
template <typename E>
struct DenseUpdate {
  const float* grad;
  float* parameters;
  // The first state, or null for kSgd.
  float* first;
  // The second state of kAdam, or null for the others.
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
