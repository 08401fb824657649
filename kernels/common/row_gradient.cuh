// The gradient of table rows: sums over their occurrences in a sorted batch, in the order that src/ops/sparse_update.rs fixes.
#pragma once

#include "bags.cuh"
#include "optimizer.cuh"
#include "reduce.cuh"
#include "vec.cuh"

constexpr int kThreads = 256;
constexpr int kInFlight = 4;
constexpr uint32_t kChunk = 64;
constexpr uint32_t kNone = 0xffffffffu;

// What the gradient of rows is made of.
struct Source {
  const Feature* features;
  const Table* tables;               // and the end of the last one
  const uint64_t* rows;
  const uint32_t* segments;
  const uint32_t* positions;
  const uint32_t* bags;
  const uint32_t* counted;
  const uint32_t* counts;
  const void* offsets;               // needed for maxima only
  const float* per_sample_weights;   // null for none
  const float* grad_output;
  const uint32_t* argmax;            // null for none
  float* chunk_sums;
  uint64_t grad_output_ld;
  uint64_t argmax_ld;
  uint64_t chunk_sums_ld;
  uint32_t num_tables;
  uint32_t num_indices;
  uint32_t num_bags;
  uint32_t batch_size;
  uint32_t offset_bytes;
  uint32_t is_wide;                  // whether rows of the gradients begin at multiples of 16 bytes
  float max_gradient;                // infinity for none

  __device__ uint32_t num_rows() const { return min(counts[1], num_indices); }
  __device__ int64_t offset(uint32_t bag) const {
    return offset_bytes == 8 ? static_cast<const int64_t*>(offsets)[bag] : static_cast<const int32_t*>(offsets)[bag];
  }
};
#define SOURCE_PARAMETERS                                                                                                           \
  const Feature *features, const Table *tables, const uint64_t *rows, const uint32_t *segments, const uint32_t *positions,          \
      const uint32_t *bags, const uint32_t *counted, const uint32_t *counts, const void *offsets, const float *per_sample_weights,  \
      const float *grad_output, const uint32_t *argmax, float *chunk_sums, uint64_t grad_output_ld, uint64_t argmax_ld,             \
      uint64_t chunk_sums_ld, uint32_t num_tables, uint32_t num_indices, uint32_t num_bags, uint32_t batch_size,                    \
      uint32_t offset_bytes, uint32_t is_wide, float max_gradient
#define SOURCE                                                                                                                      \
  {features, tables, rows, segments, positions, bags, counted, counts, offsets, per_sample_weights, grad_output, argmax, chunk_sums, \
   grad_output_ld, argmax_ld, chunk_sums_ld, num_tables, num_indices, num_bags, batch_size, offset_bytes, is_wide, max_gradient}

// Calls `work` with the number of columns that a lane takes at once.
template <typename Work>
__device__ __forceinline__ void by_width(bool is_wide, Work work) {
  if (is_wide) {
    work(Width<4>{});
  } else {
    work(Width<1>{});
  }
}

// A group of lanes with a row, as its lanes see it.
struct Group {
  uint32_t lane, lanes, mask;
};

__device__ __forceinline__ Group group_of_thread(uint32_t lanes) { return {threadIdx.x % lanes, lanes, group_mask(lanes)}; }

// Calls `work(number)` for the groups' share of `count` numbers.
template <typename Work>
__device__ __forceinline__ void for_each(uint64_t count, uint32_t lanes, Work work) {
  const uint64_t groups = uint64_t(gridDim.x) * kThreads / lanes;
#pragma unroll 1
  for (uint64_t k = (uint64_t(blockIdx.x) * kThreads + threadIdx.x) / lanes; k < count; k += groups) work(k);
}

// The number of the table that a linear row is in; that of the end of the last one if it is in none.
__device__ __forceinline__ uint32_t table_of_row(const Table* tables, uint32_t num_tables, uint64_t row) {
  uint32_t low = 0, high = num_tables + 1;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (tables[middle].first_row <= row ? low : high) = middle;
  }
  return low;
}

// What an occurrence of a row contributes: `factor` times columns of a sample's gradient; for a maximum only those that it is the source of.
struct Occurrence {
  uint32_t sample;   // kNone if it contributes nothing
  uint32_t column;   // the feature's first
  float factor;
  uint32_t within;   // its position in its bag; kNone unless the feature is pooled by max
};

__device__ __forceinline__ Occurrence occurrence_at(const Source& source, uint32_t k, uint32_t table) {
  const uint32_t position = source.positions[k], bag = source.bags[k];
  if (bag >= source.num_bags || position >= source.num_indices) return {kNone, 0, 0.0f, 0};
  const Feature feature = source.features[bag / source.batch_size];
  if (feature.table != table) return {kNone, 0, 0.0f, 0};
  float factor = source.per_sample_weights ? source.per_sample_weights[position] : 1.0f;
  if (feature.pooling == kMean) factor = __fdiv_rn(factor, float(source.counted[bag]));
  const uint32_t within = feature.pooling == kMax ? position - uint32_t(source.offset(bag)) : kNone;
  return {bag % source.batch_size, feature.column, factor, within};
}

// Sums occurrences in order, for the N columns from `column` on. A lane that is not `active` has no columns and only keeps the others company.
// Of the gradients kAtOnce are loaded at a time.
template <int N, int kAtOnce>
__device__ __forceinline__ Vec<float, N> sum_chunk(const Source& source, const Group& group, uint32_t table, uint32_t start, uint32_t end,
                                                   uint32_t column, bool active) {
  // Whatever is added to a negative zero is the sum, a negative zero included.
  Vec<float, N> sum;
#pragma unroll
  for (int j = 0; j < N; ++j) sum.at[j] = -0.0f;
#pragma unroll 1
  for (uint32_t first = start; first < end; first += group.lanes) {
    const uint32_t mine = first + group.lane;
    const Occurrence my = mine < end ? occurrence_at(source, mine, table) : Occurrence{kNone, 0, 0.0f, 0};
    const uint32_t count = min(group.lanes, end - first);
#pragma unroll 1
    for (uint32_t k0 = 0; k0 < count; k0 += kAtOnce) {
      Vec<float, N> loaded[kAtOnce];
      float factor[kAtOnce];
      bool counts[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const uint32_t sample = __shfl_sync(group.mask, my.sample, k0 + k, group.lanes);
        const uint32_t first_column = __shfl_sync(group.mask, my.column, k0 + k, group.lanes);
        const uint32_t within = __shfl_sync(group.mask, my.within, k0 + k, group.lanes);
        factor[k] = __shfl_sync(group.mask, my.factor, k0 + k, group.lanes);
        counts[k] = active && k0 + k < count && sample != kNone;
        if (!counts[k]) continue;
        loaded[k] = load<N>(source.grad_output + sample * source.grad_output_ld + first_column + column);
        if (within == kNone) continue;
        const Vec<uint32_t, N> from = load<N>(source.argmax + sample * source.argmax_ld + first_column + column);
#pragma unroll
        for (int j = 0; j < N; ++j) loaded[k].at[j] = from.at[j] == within ? loaded[k].at[j] : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (!counts[k]) continue;
#pragma unroll
        for (int j = 0; j < N; ++j) {
          sum.at[j] = __fadd_rn(sum.at[j], __fmul_rn(factor[k], clamped(loaded[k].at[j], source.max_gradient)));
        }
      }
    }
  }
  return sum;
}

// A row of the batch: its table, and where its occurrences are.
struct Row {
  uint32_t table_number;
  Table table;
  uint64_t linear;
  uint32_t start, end;
  bool exists;
};

__device__ __forceinline__ Row row_at(const Source& source, uint32_t k) {
  const uint64_t linear = source.rows[k];
  const uint32_t number = table_of_row(source.tables, source.num_tables, linear);
  const uint32_t start = source.segments[k], end = min(source.segments[k + 1], source.num_indices);
  return {number, source.tables[number], linear, start, end, number < source.num_tables && start < end};
}

// The gradient of N columns of a row: its first chunk, and the sums that `chunks` has left.
template <int N>
__device__ __forceinline__ Vec<float, N> sum_row(const Source& source, const Group& group, const Row& row, uint32_t column, bool active) {
  const uint32_t first_end = row.start + min(row.end - row.start, kChunk);
  Vec<float, N> sum = sum_chunk<N, kInFlight>(source, group, row.table_number, row.start, first_end, column, active);
  if (!active) return sum;
  if (row.end - row.start <= kChunk) return sum;
  // A chunk's place is that of the window in which it begins, so places rise by one.
  const uint32_t first = row.start + kChunk;
  const float* next = source.chunk_sums + first / kChunk * source.chunk_sums_ld + column;
  uint32_t left = (row.end - first + kChunk - 1) / kChunk;
  const auto add_next = [&](auto count) {
    constexpr int kCount = decltype(count)::kElements;
    Vec<float, N> loaded[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) loaded[k] = load<N>(next + k * source.chunk_sums_ld);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
#pragma unroll
      for (int j = 0; j < N; ++j) sum.at[j] = __fadd_rn(sum.at[j], loaded[k].at[j]);
    }
    next += kCount * source.chunk_sums_ld;
    left -= kCount;
  };
#pragma unroll 1
  while (left >= kInFlight) add_next(Width<kInFlight>{});
#pragma unroll 1
  while (left > 0) add_next(Width<1>{});
  return sum;
}

// Calls `work(column, active)` for the columns of a row, as many at a time as the lanes of the group take.
template <int N, typename Work>
__device__ __forceinline__ void for_each_column(const Group& group, uint32_t dim, Work work) {
#pragma unroll 1
  for (uint32_t start = 0; start < dim; start += group.lanes * N) {
    const uint32_t column = start + group.lane * N;
    work(column, column < dim);
  }
}

// The segment that holds an occurrence, found by a whole warp.
__device__ __forceinline__ uint32_t segment_of(const uint32_t* segments, uint32_t count, uint32_t occurrence) {
  uint32_t low = 0, high = count;
#pragma unroll 1
  while (high - low > 1) {
    const uint32_t step = (high - low + 31) / 32;
    const uint64_t probe = low + uint64_t(threadIdx.x % 32) * step;
    const uint32_t begun = __ballot_sync(0xffffffffu, probe < high && segments[probe] <= occurrence) | 1;
    low += (31 - __clz(begun)) * step;
    high = min(high, low + step);
  }
  return low;
}
