// The parameters of linear.cu.
#pragma once

#include <stdint.h>

// The number of threads in a block of the kernels that are no products.
constexpr int kThreads = 256;
// The side of large tiles, which is also the number of rows of narrow ones.
constexpr int kLargeSide = 128;
// The number of threads in a block with a large tile.
constexpr int kLargeThreads = 256;
// The side of small tiles.
constexpr int kSmallSide = 64;
// The number of threads in a block with a small tile.
constexpr int kSmallThreads = 128;
// The side of tiny tiles.
constexpr int kTinySide = 32;
// The number of threads in a block with a tiny tile.
constexpr int kTinyThreads = 64;
// The number of columns of narrow tiles.
constexpr int kNarrowCols = 16;
// The number of threads in a block with a narrow tile.
constexpr int kNarrowThreads = 128;
// The bytes of terms in a panel on the tensor cores, for each output.
constexpr int kPanelDepth = 128;
// The number of stages of the panel pipeline. The panels of a block of large tiles fit 99 KB of
// shared memory, the limit of devices with little of it.
constexpr int kPanelStages = 3;
// The bytes of shared memory of a block with a large tile on the tensor cores.
constexpr int kLargePanels = kPanelStages * kPanelDepth * (kLargeSide + kLargeSide);
// The bytes of shared memory of a block with a small tile on the tensor cores.
constexpr int kSmallPanels = kPanelStages * kPanelDepth * (kSmallSide + kSmallSide);

// The parameters of `output = act(input weight^T + bias)`.
template <typename E>
struct LinearForward {
  const E* input;
  const E* weight;
  const float* bias;
  E* output;
  uint64_t input_ld;
  uint64_t weight_ld;
  uint64_t output_ld;
  uint64_t batch_size;
  uint64_t outputs;
  uint64_t inputs;
  uint32_t relu;
};

// The parameters of `grad_input = grad weight`, and of the gradient of ReLU, whose output the input
// of the layer is.
template <typename E>
struct LinearInputGrad {
  const E* grad;
  const E* weight;
  E* grad_input;
  // The output of ReLU, or null if the gradient of the input is to be stored as it is.
  const E* input;
  // The partial column sums of each row of tiles, `[rows of tiles, inputs]`.
  float* bias_parts;
  float* grad_bias;
  // The number of blocks of each column of tiles that have arrived, 0 between launches.
  uint32_t* arrivals;
  uint64_t grad_ld;
  uint64_t weight_ld;
  uint64_t grad_input_ld;
  uint64_t input_ld;
  uint64_t batch_size;
  uint64_t outputs;
  uint64_t inputs;
  uint32_t accumulate;
};

// The parameters of `a^T b`, whose sums are split-K: each row of the grid computes one part.
// Element (r, c) of part p goes to `parts[p * part_stride + r * row_stride + c * col_stride]`. One
// of the two strides is 1. The sum of the parts goes to `grad_weight`, whose rows run along it.
template <typename E>
struct LinearWeightGrad {
  const E* a;
  const E* b;
  float* parts;
  float* grad_weight;
  // The number of blocks of each tile that have arrived, 0 between launches.
  uint32_t* arrivals;
  uint64_t a_ld;
  uint64_t b_ld;
  uint64_t part_stride;
  uint64_t row_stride;
  uint64_t col_stride;
  uint64_t rows;
  uint64_t cols;
  uint64_t batch_size;
  // The number of samples in a part.
  uint64_t part_len;
  uint64_t grad_weight_ld;
  uint32_t accumulate;
};

// The parameters of the gradient of the affine map, in place, and of its column sums.
template <typename E>
struct LinearActivationGrad {
  // The output of the layer, or null if there is no activation.
  const E* output;
  // The gradient of the output, replaced by that of the affine map.
  E* grad;
  // The partial column sums, `[parts, outputs]`.
  float* bias_parts;
  float* grad_bias;
  // The number of blocks of each run of columns that have arrived, 0 between launches.
  uint32_t* arrivals;
  uint64_t output_ld;
  uint64_t grad_ld;
  uint64_t batch_size;
  uint64_t outputs;
  // The number of samples in a part.
  uint64_t part_len;
  // Set if all rows begin and end at multiples of kVectorBytes.
  uint32_t wide;
  uint32_t accumulate;
};
