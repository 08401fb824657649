// The parameters of embedding_bag.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"

// Threads of a block.
constexpr int kThreads = 256;

// The pooled lookup.
template <typename E, typename I>
struct EmbeddingBagForward {
  const Feature* features;
  const E* weights;
  const I* indices;
  const I* offsets;
  // Null for none.
  const float* per_sample_weights;
  float* output;
  // Null for none.
  uint32_t* argmax;
  Status* status;
  uint64_t output_ld;
  uint64_t argmax_ld;
  uint64_t num_indices;
  uint32_t num_features;
  uint32_t batch_size;
  // The bags that a group of lanes pools one after another.
  uint32_t run_bags;
  // Set if there may be room behind the ids.
  uint32_t has_slack;
};

// The gradient of the per-sample weights.
template <typename E, typename I>
struct EmbeddingBagWeightGrad {
  const Feature* features;
  const E* weights;
  const I* indices;
  const I* offsets;
  const float* grad_output;
  float* grad_weights;
  Status* status;
  uint64_t grad_output_ld;
  uint64_t num_indices;
  uint32_t num_features;
  uint32_t batch_size;
  // Set if there may be room behind the ids.
  uint32_t has_slack;
};
