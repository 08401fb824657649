// The parameters of linear.cu.
#pragma once

#include <stdint.h>

// Threads of a block of the kernels that are no products.
constexpr int kThreads = 256;
// The side of large tiles, the rows of narrow ones, and threads of a block with a large tile.
constexpr int kLargeSide = 128;
constexpr int kLargeThreads = 256;
// The side of small tiles, and threads of a block with one.
constexpr int kSmallSide = 64;
constexpr int kSmallThreads = 128;
// The side of tiny tiles, and threads of a block with one.
constexpr int kTinySide = 32;
constexpr int kTinyThreads = 64;
// Columns of narrow tiles, and threads of a block with one.
constexpr int kNarrowCols = 16;
constexpr int kNarrowThreads = 128;
// Bytes of terms of a panel on the tensor cores, for each output.
constexpr int kPanelDepth = 128;
// Panels of an operand in shared memory: with those of a block of large tiles within 99 KB, which
// devices without much of it have.
constexpr int kPanelStages = 3;
// Bytes of shared memory of a block with a large tile on the tensor cores.
constexpr int kLargePanels = kPanelStages * kPanelDepth * (kLargeSide + kLargeSide);
// Bytes of shared memory of a block with a small tile on the tensor cores.
constexpr int kSmallPanels = kPanelStages * kPanelDepth * (kSmallSide + kSmallSide);

// output = act(input weight^T + bias).
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

// grad_input = grad weight.
template <typename E>
struct LinearInputGrad {
  const E* grad;
  const E* weight;
  E* grad_input;
  uint64_t grad_ld;
  uint64_t weight_ld;
  uint64_t grad_input_ld;
  uint64_t batch_size;
  uint64_t outputs;
  uint64_t inputs;
};

// The parts of a^T b, one for each row of the grid. Element (r, c) of part p goes to
// parts[p * part_stride + r * row_stride + c * col_stride].
template <typename E>
struct LinearWeightGrad {
  const E* a;
  const E* b;
  float* parts;
  uint64_t a_ld;
  uint64_t b_ld;
  uint64_t part_stride;
  uint64_t row_stride;
  uint64_t col_stride;
  uint64_t rows;
  uint64_t cols;
  uint64_t batch_size;
  // Samples of a part.
  uint64_t part_len;
};

// The gradient of the affine map, in place, and the parts of its column sums.
template <typename E>
struct LinearActivationGrad {
  // Null if there is no activation.
  const E* output;
  // The gradient of the output, and then that of the affine map.
  E* grad;
  // [parts, outputs].
  float* bias_parts;
  uint64_t output_ld;
  uint64_t grad_ld;
  uint64_t batch_size;
  uint64_t outputs;
  // Samples of a part.
  uint64_t part_len;
  // Set if all rows begin at multiples of kVectorBytes and end there.
  uint32_t wide;
};

// The gradients of weight and bias from their parts.
struct LinearSumParts {
  const float* weight_parts;
  const float* bias_parts;
  float* grad_weight;
  float* grad_bias;
  uint64_t grad_weight_ld;
  uint64_t outputs;
  uint64_t inputs;
  uint32_t num_weight_parts;
  uint32_t num_bias_parts;
  uint32_t accumulate;
};
