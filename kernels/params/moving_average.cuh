// The parameters of moving_average.cu.
#pragma once

#include <stdint.h>

#include "params/optimizer.cuh"

// Threads of a block.
constexpr int kThreads = 256;
// Elements that a thread takes at once.
constexpr int kRun = 4;

// A step of a moving average.
struct MovingAverage {
  const float* values;
  float* average;
  uint64_t len;
  float decay;
  StepPointers control;
};
