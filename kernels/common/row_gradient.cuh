// The gradient of table rows: sums over their occurrences in a sorted batch, in the order that src/ops/sparse_update.rs fixes.
#pragma once

#include "bags.cuh"
#include "optimizer.cuh"
#include "reduce.cuh"
#include "vec.cuh"

constexpr int kThreads = 256;
constexpr int kInFlight = 4;
constexpr uint32_t kChunkBits = 6;
constexpr uint32_t kChunk = 1 << kChunkBits;
constexpr uint32_t kNone = 0xffffffffu;

__device__ __forceinline__ uint64_t windows(uint32_t occurrences, uint32_t shift) {
  return (occurrences + (uint64_t(1) << shift) - 1) >> shift;
}

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
  float* run_sums;                   // of runs of kChunk occurrences: of each window of as many a place; behind them those of longer ones
  uint64_t grad_output_ld;
  uint64_t argmax_ld;
  uint64_t run_sums_ld;
  uint32_t num_tables;
  uint32_t num_indices;
  uint32_t num_bags;
  uint32_t batch_size;
  uint32_t offset_bytes;
  uint32_t is_wide;                  // whether rows of the gradients begin at multiples of 16 bytes
  float max_gradient;                // infinity for none

  __device__ uint32_t num_rows() const { return min(counts[1], num_indices); }
  // The windows of `1 << shift` of the occurrences that there are.
  __device__ uint64_t num_windows(uint32_t shift) const { return windows(min(counts[0], num_indices), shift); }
  __device__ int64_t offset(uint32_t bag) const {
    return offset_bytes == 8 ? static_cast<const int64_t*>(offsets)[bag] : static_cast<const int32_t*>(offsets)[bag];
  }
};
#define SOURCE_PARAMETERS                                                                                                           \
  const Feature *features, const Table *tables, const uint64_t *rows, const uint32_t *segments, const uint32_t *positions,          \
      const uint32_t *bags, const uint32_t *counted, const uint32_t *counts, const void *offsets, const float *per_sample_weights,  \
      const float *grad_output, const uint32_t *argmax, float *run_sums, uint64_t grad_output_ld, uint64_t argmax_ld,             \
      uint64_t run_sums_ld, uint32_t num_tables, uint32_t num_indices, uint32_t num_bags, uint32_t batch_size,                    \
      uint32_t offset_bytes, uint32_t is_wide, float max_gradient
#define SOURCE                                                                                                                      \
  {features, tables, rows, segments, positions, bags, counted, counts, offsets, per_sample_weights, grad_output, argmax, run_sums, \
   grad_output_ld, argmax_ld, run_sums_ld, num_tables, num_indices, num_bags, batch_size, offset_bytes, is_wide, max_gradient}

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

// Whatever is added to a negative zero is the sum, a negative zero included.
template <int N>
__device__ __forceinline__ Vec<float, N> negative_zero() {
  Vec<float, N> sum;
#pragma unroll
  for (int j = 0; j < N; ++j) sum.at[j] = -0.0f;
  return sum;
}

// Sums occurrences in order, for the N columns from `column` on. A lane that is not `active` has no columns and only keeps the others company.
// Of the gradients kAtOnce are loaded at a time.
template <int N, int kAtOnce>
__device__ __forceinline__ Vec<float, N> sum_chunk(const Source& source, const Group& group, uint32_t table, uint32_t start, uint32_t end,
                                                   uint32_t column, bool active) {
  Vec<float, N> sum = negative_zero<N>();
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

// Adds to `sum` the sums of `count` runs, one after another, for the N columns that the first one's are at.
template <int N>
__device__ __forceinline__ void add_runs(Vec<float, N>& sum, const float* from, uint64_t ld, uint32_t count) {
  const auto add_next = [&](auto at_once) {
    constexpr int kAtOnce = decltype(at_once)::kElements;
    Vec<float, N> loaded[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) loaded[k] = load<N>(from + k * ld);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
      for (int j = 0; j < N; ++j) sum.at[j] = __fadd_rn(sum.at[j], loaded[k].at[j]);
    }
    from += kAtOnce * ld;
    count -= kAtOnce;
  };
#pragma unroll 1
  while (count >= kInFlight) add_next(Width<kInFlight>{});
#pragma unroll 1
  while (count > 0) add_next(Width<1>{});
}

// The gradient of N columns of a row: its first chunk, then the sums of the runs behind the first one of each length, ever longer.
template <int N>
__device__ __forceinline__ Vec<float, N> sum_row(const Source& source, const Group& group, const Row& row, uint32_t column, bool active) {
  const uint64_t behind_first = row.end - row.start - 1;
  const uint32_t first_end = row.start + min(row.end - row.start, kChunk);
  Vec<float, N> sum = sum_chunk<N, kInFlight>(source, group, row.table_number, row.start, first_end, column, active);
  if (!active) return sum;
  const float* sums = source.run_sums + column;
#pragma unroll 1
  for (uint32_t shift = kChunkBits; behind_first >> shift; shift += kChunkBits) {
    // A run's place is that of the window in which it begins, so places rise by one.
    const uint64_t first = (row.start + (uint64_t(1) << shift)) >> shift;
    const uint32_t count = uint32_t(min(behind_first >> shift, uint64_t(kChunk - 1)));
    add_runs(sum, sums + first * source.run_sums_ld, source.run_sums_ld, count);
    sums += windows(source.num_indices, shift) * source.run_sums_ld;
  }
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

// A run of `1 << shift` occurrences of a row, or what is left of them, other than the row's first.
struct Run {
  Row row;
  uint32_t start, end;
  bool exists;
};

// The run that begins in a window of as many occurrences, found by a whole warp: runs behind the first begin at least that far apart.
__device__ __forceinline__ Run run_in_window(const Source& source, uint32_t num_rows, uint64_t window, uint32_t shift) {
  const uint64_t occurrence = window << shift, size = uint64_t(1) << shift;
  // Such a run begins less than its size after the window, and its row at least as far before that: the window begins within the row.
  const Row row = row_at(source, segment_of(source.segments, num_rows, uint32_t(occurrence)));
  if (!row.exists || row.start >= occurrence) return {row, 0, 0, false};
  const uint64_t start = row.start + ((occurrence - row.start + size - 1) >> shift << shift);
  return {row, uint32_t(start), uint32_t(min(start + size, uint64_t(row.end))), start < row.end};
}
