// The parameters of head.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"

// The number of threads in a block.
constexpr int kThreads = 256;
// The number of samples of a block of the forward pass, and of a sum of losses: parts of the batch
// begin at multiples of it.
constexpr int kSamples = 32;

// The parameters of `logits = input weight + bias`.
template <typename E>
struct HeadForward {
  const E* input;
  const float* weight;
  const float* bias;
  float* logits;
  uint64_t input_ld;
  uint64_t batch_size;
  uint64_t inputs;
  // Set if all rows and vectors begin and end at multiples of kVectorBytes.
  uint32_t wide;
};

// The parameters of the forward pass, the mean loss and all gradients.
template <typename E>
struct HeadLossAndGrads {
  const E* input;
  const float* weight;
  const float* bias;
  const float* labels;
  float* logits;
  float* grad_logits;
  E* grad_input;
  float* grad_weight;
  float* grad_bias;
  // The gradient of the bias of the layer with ReLU whose output the input is, or null if the
  // gradient of the input is to be stored as it is.
  float* grad_bias_before;
  double* mean;
  // The partial sums of each block: `[parts, inputs]`, the same if there is a bias before, and
  // `[parts]`.
  float* weight_parts;
  float* before_parts;
  float* bias_parts;
  // The sums of the losses of each kSamples samples.
  double* loss_sums;
  // The number of blocks that have arrived, 0 between launches.
  uint32_t* arrivals;
  uint64_t input_ld;
  uint64_t grad_input_ld;
  uint64_t batch_size;
  uint64_t inputs;
  // The number of samples in a part, a multiple of kSamples.
  uint64_t part_len;
  // Set if all rows and vectors, and the parts in the workspace, begin and end at multiples of
  // kVectorBytes.
  uint32_t wide;
  // Set for the squared error of the probability, else it is the cross-entropy.
  uint32_t squared;
  float threshold;
  float loss_scale;
  // The weight of a label below one half, for the cross-entropy.
  float negative;
  // The weight of the other labels.
  float positive;
  uint32_t accumulate;
  Status* status;
};
