// The parameters of pooled_interaction.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"
#include "params/interaction_mma.cuh"

// The parameters of lookup and interaction in one pass. Rows of type E are pooled into vectors of
// type O.
template <typename E, typename O, typename I>
struct PooledInteractionForward {
  // The interaction. Its tail is not read: the pooled vectors are its features behind the first.
  InteractionForwardMatrices<O> matrices;
  const Feature* features;
  const E* weights;
  // The rows in `weights` of the table of each feature.
  const TableRows* rows;
  const I* indices;
  // The weight of each id, or null.
  const float* per_sample_weights;
  // The pooled vectors, which are written, or null.
  O* pooled;
  Status* status;
  Bags bags;
  uint64_t pooled_ld;
  uint32_t batch_size;
  uint32_t team_threads;
  // The number of lanes in the group that pools a bag.
  uint32_t lanes;
};
