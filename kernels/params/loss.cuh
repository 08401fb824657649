// The parameters of loss.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"

// Threads of a block, and samples that it sums up.
constexpr int kThreads = 256;

// The losses of a batch, as a partial sum for each block, and their gradient.
struct LossForward {
  const float* logits;
  const float* labels;
  // Null for none.
  float* grad_logits;
  double* partial_sums;
  uint64_t batch_size;
  // Set for the squared error of the probability, else it is the cross-entropy.
  uint32_t squared;
  float threshold;
  float loss_scale;
  // The weight of a label below one half, for the cross-entropy.
  float negative;
  // The weight of the other labels.
  float positive;
  Status* status;
};

// The mean of the losses.
struct LossMean {
  const double* partial_sums;
  double* mean;
  uint64_t num_partial_sums;
  uint64_t batch_size;
};
