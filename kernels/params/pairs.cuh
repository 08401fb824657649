// The matrices and flags that the kernels of the interaction share.
#pragma once

#include <stdint.h>

// The flags of an interaction.
enum InteractionFlag : uint32_t {
  kHasDense = 1,
  kUpper = 2,
  kIncludeSelf = 4,
  kAppendSparse = 8,
};

// The side of a thread's tile of pairs in registers.
constexpr int kTile = 4;

// The matrices of the forward pass: the first feature of each sample, the others, contiguous per
// sample, and the output.
template <typename E>
struct InteractionForwardMatrices {
  const E* head;
  const E* tail;
  E* output;
  uint64_t head_ld;
  uint64_t tail_ld;
  uint64_t output_ld;
  // The number of columns of the output.
  uint64_t width;
  uint32_t num_features;
  uint32_t dim;
  // The set of `InteractionFlag`s.
  uint32_t flags;
};

// The matrices of the backward pass.
template <typename E>
struct InteractionBackwardMatrices {
  const E* head;
  const E* tail;
  const E* grad_output;
  E* grad_head;
  E* grad_tail;
  // The word that is set if a gradient is not finite, or null.
  uint64_t* non_finite;
  uint64_t head_ld;
  uint64_t tail_ld;
  uint64_t grad_output_ld;
  uint64_t grad_head_ld;
  uint64_t grad_tail_ld;
  uint32_t num_features;
  uint32_t dim;
  // The set of `InteractionFlag`s.
  uint32_t flags;
};
