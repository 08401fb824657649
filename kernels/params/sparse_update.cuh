// The parameters of sparse_update.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"
#include "params/dtype.cuh"
#include "params/optimizer.cuh"

// The number of threads in a block.
constexpr int kThreads = 256;
// The binary logarithm of kChunk.
constexpr uint32_t kChunkBits = 6;
// The number of occurrences in a chunk, which are summed in order.
constexpr uint32_t kChunk = 1 << kChunkBits;
// The number of occurrences that are looked up together with their row. Rows with more, but at most
// a chunk, are left to the kernels that sum chunks.
constexpr uint32_t kFew = 3;
// The number of threads in a block that sums chunks. Such blocks need much shared memory, and small
// ones leave less of it over.
constexpr int kChunkThreads = 128;

// The order of a batch and the gradient of its pooled output, from which the gradient of rows is
// summed.
struct RowGradientSource {
  const Feature* features;
  // The tables, and the end of the last one.
  const Table* tables;
  // The linear row of each segment, in increasing order.
  const uint64_t* rows;
  // The first occurrence of each segment, and the end of the last one.
  const uint32_t* segments;
  // The position among the ids of each occurrence, in the order of segments.
  const uint32_t* positions;
  // The bag of each occurrence, in the same order.
  const uint32_t* bags;
  // The number of counted ids in each bag, the divisor of mean pooling.
  const uint32_t* bag_lengths;
  // The number of occurrences and the number of rows.
  const uint32_t* counts;
  // The weight of each id, or null.
  const float* per_sample_weights;
  const void* grad_output;
  // The position in its bag of each maximum, or null.
  const uint32_t* argmax;
  // The sums of the first chunks of rows with more than one, a row of `run_sums_ld` elements for
  // each window of kChunk occurrences. At most one of them begins in a window.
  float* first_sums;
  // The sums of other chunks, a row of `run_sums_ld` elements for each window; behind them those of
  // longer runs, with windows as long as these.
  float* run_sums;
  // The bags of the batch. Their offsets are read for max pooling only.
  Bags bags_of_ids;
  uint64_t grad_output_ld;
  uint64_t argmax_ld;
  uint64_t run_sums_ld;
  DType grad_output_type;
  uint32_t num_tables;
  uint32_t num_indices;
  uint32_t batch_size;
  // Set if the rows of `grad_output` and `argmax` begin at multiples of kWideColumns elements.
  uint32_t is_wide;
  // The bound of each element of `grad_output`, or infinity.
  float max_gradient;
  // The factor of the sums, the reciprocal of the loss scale that `grad_output` contains.
  float factor;
};

// The weights that an optimizer step changes, with their state and their rounding.
template <typename E>
struct OptimizerTarget {
  // The scale of each row's weight decay, or null.
  const float* decay_scale;
  E* weights;
  // The rows in `weights` of each table.
  const TableRows* weight_rows;
  // The first state of the optimizer, or null.
  float* first;
  // The rows in `first` of each table.
  const TableRows* first_rows;
  // The second state of the optimizer, or null.
  float* second;
  // The rows in `second` of each table.
  const TableRows* second_rows;
  uint64_t seed;
  uint64_t step_number;
  uint32_t is_stochastic;
  // Set if `weights`, `first` and `second` are multiples of the size of kWideColumns elements.
  uint32_t is_wide;
};

// The place of a table's rows in a sparse gradient.
struct Place {
  // The number of its first row.
  uint64_t row;
  // The first value of that row.
  uint64_t start;
};

// The parameters of the sums of runs of `1 << shift` occurrences, from those of the next shorter
// runs.
struct SparseUpdateRuns {
  RowGradientSource source;
  const float* shorter_sums;
  float* sums;
  StepPointers control;
  uint32_t shift;
};

// The parameters of the search for each table's place among sorted rows.
struct SparseUpdateStarts {
  const Table* tables;
  const uint64_t* rows;
  const uint32_t* num_rows;
  Place* places;
  // The starts of rows in the gradient, of which only the end of the last one is written.
  uint64_t* starts;
  // The number of rows in the gradient, which is written.
  uint32_t* counts;
  uint32_t num_tables;
  uint32_t capacity;
};

// The parameters of the gradient of each row.
struct SparseUpdateReduce {
  RowGradientSource source;
  const Place* places;
  uint64_t* grad_rows;
  uint64_t* starts;
  float* values;
  uint64_t num_values;
  uint32_t capacity;
  // The number of lanes in the group that works on a row.
  uint32_t lanes;
};

// The parameters of the merge of the rows of two gradients.
struct SparseUpdateInterleave {
  const uint64_t* a_rows;
  const uint32_t* a_count;
  const uint64_t* b_rows;
  const uint32_t* b_count;
  uint64_t* rows;
  // The source of each row, counted through both gradients.
  uint32_t* sources;
  uint64_t end_key;
  uint32_t a_capacity;
  uint32_t b_capacity;
};

// The parameters of the sum of two gradients whose merged rows have been numbered.
struct SparseUpdateAdd {
  const Table* tables;
  const uint64_t* rows;
  const uint32_t* segments;
  const uint32_t* sources;
  const Place* places;
  const uint64_t* a_starts;
  const float* a_values;
  const uint64_t* b_starts;
  const float* b_values;
  uint64_t* out_rows;
  uint64_t* out_starts;
  float* out_values;
  const uint32_t* out_count;
  uint64_t num_a_values;
  uint64_t num_b_values;
  uint64_t num_out_values;
  uint32_t a_capacity;
  uint32_t b_capacity;
  uint32_t num_tables;
  // The number of lanes in the group that works on a row.
  uint32_t lanes;
};

// The parameters of an optimizer step on the rows of a sorted batch.
template <typename E>
struct SparseUpdateUpdate {
  RowGradientSource source;
  OptimizerTarget<E> target;
  OptimizerStep step;
  StepPointers control;
  // The number of lanes in the group that works on a row.
  uint32_t lanes;
};

// The parameters of an optimizer step on the rows of a sparse gradient.
template <typename E>
struct SparseUpdateApply {
  const Table* tables;
  const uint64_t* rows;
  const uint64_t* starts;
  const float* values;
  const uint32_t* counts;
  uint64_t num_values;
  uint32_t num_tables;
  uint32_t capacity;
  OptimizerTarget<E> target;
  OptimizerStep step;
  // The number of lanes in the group that works on a row.
  uint32_t lanes;
};
