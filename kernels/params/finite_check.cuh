// The parameters of finite_check.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"
#include "params/optimizer.cuh"

// The number of threads in a block.
constexpr int kThreads = 256;
// The number of elements in a thread's vectorised load.
constexpr int kRun = 4;

// The words of a verdict.
struct Verdict {
  uint64_t gate;
  uint64_t steps;
  uint64_t first;
  uint64_t last;
  // Set by the check, or by an op before it, if there is a value that is not finite; cleared when
  // the check has decided.
  uint64_t found;
};

// The parameters of the check of two gradients, a loss and the status.
struct FiniteCheck {
  const float* a;
  const float* b;
  uint64_t a_len;
  uint64_t b_len;
  const double* loss;
  // The values of the step, or null.
  const StepValues* values;
  const Status* status;
  Verdict* verdict;
  // The number of blocks that have arrived, 0 between launches.
  uint32_t* arrivals;
  uint64_t step;
  uint32_t stays_shut;
};
