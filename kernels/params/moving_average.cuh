// The parameters of moving_average.cu.
#pragma once

#include <stdint.h>

#include "params/optimizer.cuh"

// The number of threads in a block.
constexpr int kThreads = 256;
// The number of elements in a thread's vectorised access.
constexpr int kRun = 4;

// The parameters of a step of a moving average.
struct MovingAverage {
  const float* values;
  float* average;
  uint64_t len;
  float decay;
  StepPointers control;
};
