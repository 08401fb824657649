// The parameters of loss.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"

// The number of threads in a block, which is also the number of samples that it sums.
constexpr int kThreads = 256;

// The parameters of the losses of a batch, of their mean and of their gradient.
struct LossForward {
  const float* logits;
  const float* labels;
  // The gradient of the logits, or null.
  float* grad_logits;
  // The sum of each block; not used if there is only one block.
  double* partial_sums;
  double* mean;
  // The number of blocks that have arrived, 0 between launches.
  uint32_t* arrivals;
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
