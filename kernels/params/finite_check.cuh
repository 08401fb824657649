// The parameters of finite_check.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"
#include "params/optimizer.cuh"

// The number of threads in a block of the scan.
constexpr int kThreads = 256;
// The number of threads in the block that judges.
constexpr int kJudgeThreads = 32;
// The number of elements in a thread's vectorised load.
constexpr int kRun = 4;

// The words of a verdict.
struct Verdict {
  uint64_t gate;
  uint64_t steps;
  uint64_t first;
  uint64_t last;
  // Set if the scan has found something; zero between steps.
  uint32_t found;
  uint32_t reserved;
};

// The parameters of the scan of two gradients for elements that are not finite.
struct FiniteCheckScan {
  const float* a;
  const float* b;
  uint64_t a_len;
  uint64_t b_len;
  Verdict* verdict;
};

// The parameters of the judgement of a step.
struct FiniteCheckJudge {
  const double* loss;
  // The values of the step, or null.
  const StepValues* values;
  const Status* status;
  Verdict* verdict;
  uint64_t step;
  uint32_t stays_shut;
};
