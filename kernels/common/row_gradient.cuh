// The gradient of table rows: sums over the occurrences of a row in a sorted batch. The order of
// the additions is fixed by src/ops/sparse_update.rs.
#pragma once

#include "bags.cuh"
#include "optimizer.cuh"
#include "params/sparse_update.cuh"
#include "reduce.cuh"
#include "vec.cuh"

// The number of loads that a lane has in flight while it adds sums of runs. `chunks` has twice as
// many; the first chunk of a row has half as many, since registers are scarce in `update`.
constexpr int kInFlight = 4;
// The number of occurrences that are looked up together with their row. Rows with more need a
// second look-up.
constexpr uint32_t kKnown = 3;
constexpr uint32_t kNone = 0xffffffffu;
constexpr float kInfinity = __builtin_huge_valf();

// Returns the number of windows of `1 << shift` occurrences into which a batch is cut.
__device__ __forceinline__ uint64_t windows(uint32_t occurrences, uint32_t shift) {
  return (occurrences + (uint64_t(1) << shift) - 1) >> shift;
}

// Returns the number of rows of the sorted batch, clamped to what the buffers hold.
__device__ __forceinline__ uint32_t num_rows_of(const RowGradientSource& source) {
  return min(source.counts[1], source.num_indices);
}

// Returns the number of windows of `1 << shift` occurrences in the sorted batch.
__device__ __forceinline__ uint64_t num_windows_of(const RowGradientSource& source,
                                                   uint32_t shift) {
  return windows(min(source.counts[0], source.num_indices), shift);
}

// Calls `work` with the number of columns of one vectorised load of a lane. All groups of a warp
// use the same number, so that the warp stays converged.
template <typename Work>
__device__ __forceinline__ void by_width(bool is_wide, Work work) {
  if (__all_sync(kWarp, is_wide)) {
    work(Width<kWideColumns>{});
  } else {
    work(Width<1>{});
  }
}

// A group of lanes that works on one row. All groups of a warp stay converged, each with a row of
// its own or with none: shuffles and votes with the mask of a whole warp cost less than those with
// a partial mask.
struct Group {
  uint32_t lane, lanes;
};

__device__ __forceinline__ Group group_of_thread(uint32_t lanes) {
  return {threadIdx.x % lanes, lanes};
}

template <typename T>
__device__ __forceinline__ T from_lane(const Group& group, T x, uint32_t lane) {
  return __shfl_sync(kWarp, x, lane, group.lanes);
}

// Calls `work(number)` for each of this group's share of `count` numbers: a grid-stride loop over
// groups.
template <typename Work>
__device__ __forceinline__ void for_each(uint64_t count, uint32_t lanes, Work work) {
  const uint64_t groups = uint64_t(gridDim.x) * kThreads / lanes;
#pragma unroll 1
  for (uint64_t k = (uint64_t(blockIdx.x) * kThreads + threadIdx.x) / lanes; k < count; k += groups)
    work(k);
}

// Returns the number of the table that holds a linear row, or `num_tables` if the row lies behind
// the last table. Binary search.
__device__ __forceinline__ uint32_t table_of_row(const Table* tables, uint32_t num_tables,
                                                 uint64_t row) {
  uint32_t low = 0, high = num_tables + 1;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (tables[middle].first_row <= row ? low : high) = middle;
  }
  return low;
}

// A row of a table. A row with `dim` 0 stands for no row.
struct Row {
  uint64_t number;  // The row's number within its table.
  uint32_t table;
  uint32_t dim;
  uint32_t is_wide;

  __device__ bool exists() const { return dim > 0; }
};

__device__ __forceinline__ Row row_at(const Table* tables, uint32_t num_tables, uint64_t linear) {
  const uint32_t number = table_of_row(tables, num_tables, linear);
  if (number >= num_tables) return {};
  const Table table = tables[number];
  return {linear - table.first_row, number, table.embedding_dim, table.is_wide};
}

// The contribution of an occurrence to the gradient of its row: `factor` times columns of a
// sample's gradient. With max pooling only the columns count whose maximum came from this
// occurrence.
struct alignas(16) Occurrence {
  uint32_t sample;  // The sample, or kNone if the occurrence contributes nothing.
  uint32_t column;  // The first column of the feature.
  float factor;
  uint32_t within;  // The position in the bag with max pooling, else kNone.
};

constexpr Occurrence kNoOccurrence = {kNone, 0, 0.0f, kNone};

// Returns occurrence `k` of the sorted batch, which belongs to a row of `table`. Returns
// kNoOccurrence if the order is wrong: if bag or position is out of bounds, or if the bag looks up
// another table.
__device__ __forceinline__ Occurrence occurrence_at(const RowGradientSource& source, uint32_t k,
                                                    uint32_t table) {
  const uint32_t position = source.positions[k], bag = source.bags[k];
  if (bag >= source.bags_of_ids.num_bags || position >= source.num_indices) return kNoOccurrence;
  const uint32_t number = bag / source.batch_size;
  const Feature& feature = source.features[number];
  if (feature.table != table) return kNoOccurrence;
  float factor = source.per_sample_weights ? source.per_sample_weights[position] : 1.0f;
  const uint32_t pooling = feature.pooling;
  if (pooling == kMean) factor = __fdiv_rn(factor, float(source.bag_lengths[bag]));
  const uint32_t within =
      pooling == kMax ? position - uint32_t(offset_at(source.bags_of_ids, bag)) : kNone;
  return {bag - number * source.batch_size, feature.column, factor, within};
}

// Returns the address of a column of the gradient of an occurrence's bag.
__device__ __forceinline__ const void* gradient_of(const RowGradientSource& source,
                                                   const Occurrence& of, uint32_t column) {
  return address_of(source.grad_output_type, source.grad_output,
                    of.sample * source.grad_output_ld + of.column + column);
}

// Returns the neutral element of the sum: -0.0 + x is x for every x, also for -0.0.
template <int N>
__device__ __forceinline__ Vec<float, N> negative_zero() {
  Vec<float, N> sum;
#pragma unroll
  for (int j = 0; j < N; ++j) sum.at[j] = -0.0f;
  return sum;
}

// Adds to `sum` the contributions of kAtOnce occurrences to the N columns from `column` on, in
// their order. All loads are issued before the first addition, so that their latencies overlap.
// `occurrence(k)` returns an occurrence.
template <int N, int kAtOnce, typename At>
__device__ __forceinline__ void add_occurrences(const RowGradientSource& source, Vec<float, N>& sum,
                                                uint32_t column, bool active, At occurrence) {
  Vec<float, N> loaded[kAtOnce];
  float factor[kAtOnce];
  bool counts[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    const Occurrence of = occurrence(k);
    factor[k] = of.factor;
    counts[k] = active && of.sample != kNone;
    if (!counts[k]) continue;
    loaded[k] = load_as_f32<N>(source.grad_output_type, gradient_of(source, of, column));
    if (of.within == kNone) continue;
    const Vec<uint32_t, N> from =
        load<N>(source.argmax + of.sample * source.argmax_ld + of.column + column);
#pragma unroll
    for (int j = 0; j < N; ++j) loaded[k].at[j] = from.at[j] == of.within ? loaded[k].at[j] : 0.0f;
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    if (!counts[k]) continue;
    if (source.max_gradient < kInfinity) {
#pragma unroll
      for (int j = 0; j < N; ++j) loaded[k].at[j] = clamped(loaded[k].at[j], source.max_gradient);
    }
#pragma unroll
    for (int j = 0; j < N; ++j)
      sum.at[j] = __fadd_rn(sum.at[j], __fmul_rn(factor[k], loaded[k].at[j]));
  }
}

// Adds `count` occurrences from `start` on. Each lane of the group looks up one of them; warp
// shuffles broadcast it to the other lanes.
template <int N, int kAtOnce>
__device__ __forceinline__ void add_chunk(const RowGradientSource& source, const Group& group,
                                          Vec<float, N>& sum, const Row& row, uint32_t start,
                                          uint32_t count, uint32_t column, bool active) {
  const uint32_t longest = __reduce_max_sync(kWarp, count);
#pragma unroll 1
  for (uint32_t first = 0; first < longest; first += group.lanes) {
    const uint32_t mine = first + group.lane;
    const Occurrence my =
        mine < count ? occurrence_at(source, start + mine, row.table) : kNoOccurrence;
    // Each lane prefetches the gradient of its own occurrence, so that all are in flight at once;
    // registers hold only kAtOnce of them.
    if (my.sample != kNone) {
#pragma unroll 1
      for (uint32_t k = 0; k < row.dim; k += 32) prefetch_line(gradient_of(source, my, k));
    }
    const uint32_t end = min(group.lanes, longest - first);
#pragma unroll 1
    for (uint32_t k0 = 0; k0 < end; k0 += kAtOnce) {
      add_occurrences<N, kAtOnce>(source, sum, column, active, [&](uint32_t k) {
        // A shuffle wraps around at the end of the group, so indices beyond it would repeat its
        // first occurrences.
        const uint32_t sample = from_lane(group, my.sample, k0 + k);
        return Occurrence{k0 + k < end ? sample : kNone, from_lane(group, my.column, k0 + k),
                          from_lane(group, my.factor, k0 + k), from_lane(group, my.within, k0 + k)};
      });
    }
  }
}

// The place of a row's weights and state, and those values of the step that are looked up with it.
struct RowState {
  uint64_t weight;  // The index of the row's first weight.
  uint64_t first;   // The index of its first state, if there is one.
  float squares;    // The sum of squared gradients of the row, for kRowwiseAdagrad.
  float learning_rate, l2, shrink;
};

// A run of consecutive occurrences of one row: its segment, or a part of it. An empty run has no
// row.
struct Run {
  Row row;
  uint32_t start, end;

  __device__ uint32_t count() const { return end - start; }
};

// Returns the segment of row `k` of the batch.
__device__ __forceinline__ Run occurrences_of(const RowGradientSource& source, uint64_t k) {
  const uint32_t start = source.segments[k], end = min(source.segments[k + 1], source.num_indices);
  const Row row = row_at(source.tables, source.num_tables, source.rows[k]);
  return row.exists() && start < end ? Run{row, start, end} : Run{};
}

// A row with what is looked up before its gradient is summed.
struct KnownRow : Run {
  Occurrence first[kKnown];
  RowState state;
};

// Maxima over the rows that a warp works on. They bound loops in which the warp stays converged.
struct RowBatch {
  uint32_t widest;   // The largest number of columns.
  uint32_t longest;  // The largest number of occurrences.
};

// Calls `work(width, batch, number, row)` for this group's share of the first `count` rows of the
// batch, and with an empty row for the numbers behind the last one.
//
// A warp looks up 32 rows at once, one per lane, and keeps them in shared memory, so that no group
// waits for a chain of dependent loads per row. These rows are a stride of all warps apart, since
// neighbouring rows may all be hot. While a group works on a row, it prefetches the next one.
//
// `target.state(row)` returns the state of a row, and `target.is_wide(row)` whether vectorised
// loads of four columns can read and write it. `target.prefetch(state, column)` prefetches the
// weights of a row at the column of the calling lane.
template <typename Target, typename Work>
__device__ __forceinline__ void for_each_row(const RowGradientSource& source, const Group& group,
                                             bool is_wide, uint32_t count, const Target& target,
                                             Work work) {
  __shared__ KnownRow known[kThreads];
  const uint32_t lane = threadIdx.x % 32, groups = 32 / group.lanes;
  const uint32_t warps = gridDim.x * (kThreads / 32);
  KnownRow* const of_warp = known + threadIdx.x / 32 * 32;
#pragma unroll 1
  for (uint32_t first = (blockIdx.x * kThreads + threadIdx.x) / 32; first < count;
       first += 32 * warps) {
    const bool exists = lane * warps < count - first;
    const Run my = exists ? occurrences_of(source, first + lane * warps) : Run{};
    __syncwarp();
    static_cast<Run&>(of_warp[lane]) = my;
#pragma unroll
    for (uint32_t k = 0; k < kKnown; ++k) {
      of_warp[lane].first[k] =
          k < my.count() ? occurrence_at(source, my.start + k, my.row.table) : kNoOccurrence;
    }
    of_warp[lane].state = my.row.exists() ? target.state(my.row) : RowState{};
    const RowBatch batch = {__reduce_max_sync(kWarp, my.row.dim),
                            __reduce_max_sync(kWarp, my.count())};
    const uint32_t rows = __popc(__ballot_sync(kWarp, exists));
    const bool can_be_wide = !my.row.exists() || (my.row.is_wide && target.is_wide(my.row));
    by_width(is_wide && can_be_wide, [&](auto width) {
      __syncwarp();
#pragma unroll 1
      for (uint32_t k = 0; k < rows; k += groups) {
        const uint32_t of_group = k + lane / group.lanes;
        if (k + groups < rows) {
          const KnownRow& next = of_warp[of_group + groups];
          const uint32_t column = group.lane * decltype(width)::kElements;
          if (column < next.row.dim) {
            target.prefetch(next.state, column);
            if (next.first[0].sample != kNone)
              prefetch_line(gradient_of(source, next.first[0], column));
          }
        }
        work(width, batch, first + of_group * warps, of_warp[of_group]);
      }
    });
    // Leaves before `first` overflows 32 bits.
    if (count - first <= 32 * warps) return;
  }
}

// Adds to `sum` the sums of `count` runs in order. `from` points to N columns of the first one.
template <int N>
__device__ __forceinline__ void add_runs(Vec<float, N>& sum, const float* from, uint64_t ld,
                                         uint32_t count) {
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

// Returns the sum over the occurrences of a row, in N of its columns. It adds the occurrences of
// the first chunk, and then the sums of the later runs at each level of the reduction tree, from
// the shortest runs to the longest.
template <int N>
__device__ __forceinline__ Vec<float, N> sum_occurrences(const RowGradientSource& source,
                                                         const Group& group, const RowBatch& batch,
                                                         const KnownRow& known, uint32_t column,
                                                         bool active) {
  Vec<float, N> sum = negative_zero<N>();
  add_occurrences<N, 1>(source, sum, column, active, [&](uint32_t) { return known.first[0]; });
  if (batch.longest <= 1) return sum;
  const uint32_t count = known.count(), longest = __reduce_max_sync(kWarp, count);
#pragma unroll 1
  for (uint32_t k = 1; k < min(longest, kKnown); ++k) {
    add_occurrences<N, 1>(source, sum, column, active, [&](uint32_t) { return known.first[k]; });
  }
  if (longest <= kKnown) return sum;
  add_chunk<N, kInFlight / 2>(source, group, sum, known.row, known.start + kKnown,
                              max(min(count, kChunk), kKnown) - kKnown, column, active);
  if (!active || count <= kChunk) return sum;
  // A row has `behind_first >> shift` runs of `1 << shift` occurrences behind its first one. At
  // most kChunk - 1 of them are added here; the runs of the next level hold the others.
  const uint64_t behind_first = uint64_t(count) - 1;
  const float* sums = source.run_sums + column;
#pragma unroll 1
  for (uint32_t shift = kChunkBits; behind_first >> shift; shift += kChunkBits) {
    // The sum of a run is stored at the window in which the run begins, so the places of
    // consecutive runs are consecutive.
    const uint64_t first = (known.start + (uint64_t(1) << shift)) >> shift;
    const uint32_t runs = uint32_t(min(behind_first >> shift, uint64_t(kChunk - 1)));
    add_runs(sum, sums + first * source.run_sums_ld, source.run_sums_ld, runs);
    sums += windows(source.num_indices, shift) * source.run_sums_ld;
  }
  return sum;
}

// Returns the gradient of N columns of a row: the sum over its occurrences without the loss scale.
template <int N>
__device__ __forceinline__ Vec<float, N> sum_row(const RowGradientSource& source,
                                                 const Group& group, const RowBatch& batch,
                                                 const KnownRow& known, uint32_t column,
                                                 bool active) {
  Vec<float, N> sum = sum_occurrences<N>(source, group, batch, known, column, active);
#pragma unroll
  for (int j = 0; j < N; ++j) sum.at[j] = __fmul_rn(sum.at[j], source.factor);
  return sum;
}

// Calls `work(column, active)` for the columns of a row, one vectorised load of every lane at a
// time, up to the widest row of the warp. `active` is true if the row of the calling lane has these
// columns.
template <int N, typename Work>
__device__ __forceinline__ void for_each_column(const Group& group, uint32_t widest, uint32_t dim,
                                                Work work) {
#pragma unroll 1
  for (uint32_t start = 0; start < widest; start += group.lanes * N) {
    const uint32_t column = start + group.lane * N;
    work(column, column < dim);
  }
}

// Returns the number of the segment that holds an occurrence. A whole warp searches: each step
// probes 32 places.
__device__ __forceinline__ uint32_t segment_of(const uint32_t* segments, uint32_t count,
                                               uint32_t occurrence) {
  uint32_t low = 0, high = count;
#pragma unroll 1
  while (high - low > 1) {
    const uint32_t step = (high - low - 1) / 32 + 1;
    const uint64_t probe = low + uint64_t(threadIdx.x % 32) * step;
    const uint32_t begun = __ballot_sync(kWarp, probe < high && segments[probe] <= occurrence) | 1;
    low += (31 - __clz(begun)) * step;
    high = min(high, low + step);
  }
  return low;
}

// Returns the run that begins in a window of `1 << shift` occurrences: as many consecutive
// occurrences of one row, or the rest of its segment, but not the first run of the segment. There
// is at most one, since runs behind the first begin at least a window apart. A whole warp calls
// this together.
__device__ __forceinline__ Run run_in_window(const RowGradientSource& source, uint32_t num_rows,
                                             uint64_t window, uint32_t shift) {
  const uint64_t occurrence = window << shift, size = uint64_t(1) << shift;
  // The row of such a run began at least a window's size before the run, so the window's first
  // occurrence belongs to that row.
  const Run found =
      occurrences_of(source, segment_of(source.segments, num_rows, uint32_t(occurrence)));
  if (!found.row.exists() || found.start >= occurrence) return {};
  const uint64_t start = found.start + ((occurrence - found.start + size - 1) >> shift << shift);
  if (start >= found.end) return {};
  return {found.row, uint32_t(start), uint32_t(min(start + size, uint64_t(found.end)))};
}
