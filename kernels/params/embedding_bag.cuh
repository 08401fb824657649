// The parameters of embedding_bag.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"
#include "params/dtype.cuh"

// The number of threads in a block.
constexpr int kThreads = 256;

// The parameters of the pooled lookup.
template <typename E, typename I>
struct EmbeddingBagForward {
  const Feature* features;
  const E* weights;
  // The rows in `weights` of the table of each feature.
  const TableRows* rows;
  const I* indices;
  // The weight of each id, or null.
  const float* per_sample_weights;
  void* output;
  // The position in its bag of each maximum, or null.
  uint32_t* argmax;
  Status* status;
  Bags bags;
  uint64_t output_ld;
  uint64_t argmax_ld;
  DType output_type;
  uint32_t num_features;
  uint32_t batch_size;
  // The number of bags in the run of a group of lanes.
  uint32_t run_bags;
};

// The parameters of the gradient of the per-sample weights.
template <typename E, typename I>
struct EmbeddingBagWeightGrad {
  const Feature* features;
  const E* weights;
  // The rows in `weights` of the table of each feature.
  const TableRows* rows;
  const I* indices;
  const void* grad_output;
  float* grad_weights;
  Status* status;
  Bags bags;
  uint64_t grad_output_ld;
  DType grad_output_type;
  uint32_t num_features;
  uint32_t batch_size;
};
