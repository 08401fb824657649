// The gradient of table rows: sums over their occurrences in a sorted batch, in the order that
// src/ops/sparse_update.rs fixes.
#pragma once

#include "bags.cuh"
#include "optimizer.cuh"
#include "params/sparse_update.cuh"
#include "reduce.cuh"
#include "vec.cuh"

constexpr int kInFlight =
    4;  // loads at a time; of a row's own gradients half of them, since registers are few there
// Occurrences of a row that are looked up with it.
constexpr uint32_t kKnown = 3;
constexpr uint32_t kNone = 0xffffffffu;
constexpr float kInfinity = __builtin_huge_valf();

__device__ __forceinline__ uint64_t windows(uint32_t occurrences, uint32_t shift) {
  return (occurrences + (uint64_t(1) << shift) - 1) >> shift;
}

__device__ __forceinline__ uint32_t num_rows_of(const RowGradientSource& source) {
  return min(source.counts[1], source.num_indices);
}

// The windows of `1 << shift` of the occurrences that there are.
__device__ __forceinline__ uint64_t num_windows_of(const RowGradientSource& source,
                                                   uint32_t shift) {
  return windows(min(source.counts[0], source.num_indices), shift);
}

// The position of a bag's first id.
__device__ __forceinline__ int64_t offset_of(const RowGradientSource& source, uint32_t bag) {
  return source.offset_bytes == 8 ? static_cast<const int64_t*>(source.offsets)[bag]
                                  : static_cast<const int32_t*>(source.offsets)[bag];
}

// Calls `work` with the number of columns that a lane takes at once, the same for all groups of a
// warp.
template <typename Work>
__device__ __forceinline__ void by_width(bool is_wide, Work work) {
  if (__all_sync(kWarp, is_wide)) {
    work(Width<kWideColumns>{});
  } else {
    work(Width<1>{});
  }
}

// A group of lanes with a row. All groups of a warp keep in step, each with a row of its own or
// with none: shuffles and votes are those of whole warps, which cost less than those of some lanes.
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

// Calls `work(number)` for the groups' share of `count` numbers.
template <typename Work>
__device__ __forceinline__ void for_each(uint64_t count, uint32_t lanes, Work work) {
  const uint64_t groups = uint64_t(gridDim.x) * kThreads / lanes;
#pragma unroll 1
  for (uint64_t k = (uint64_t(blockIdx.x) * kThreads + threadIdx.x) / lanes; k < count; k += groups)
    work(k);
}

// The number of the table that a linear row is in; that of the end of the last one if it is in
// none.
__device__ __forceinline__ uint32_t table_of_row(const Table* tables, uint32_t num_tables,
                                                 uint64_t row) {
  uint32_t low = 0, high = num_tables + 1;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (tables[middle].first_row <= row ? low : high) = middle;
  }
  return low;
}

// A row, as what works on it sees it. One without columns stands for none.
struct Row {
  uint64_t linear;
  uint64_t number;  // in its table
  uint64_t weight;  // its first element
  uint32_t table;
  uint32_t dim;
  uint32_t is_wide;

  __device__ bool exists() const { return dim > 0; }
  // Whether nothing speaks against taking four columns at once.
  __device__ bool can_be_wide() const { return is_wide || !exists(); }
};

__device__ __forceinline__ Row row_at(const Table* tables, uint32_t num_tables, uint64_t linear) {
  const uint32_t number = table_of_row(tables, num_tables, linear);
  if (number >= num_tables) return {};
  const Table table = tables[number];
  const uint64_t row = linear - table.first_row;
  return {linear,
          row,
          table.weight_offset + row * table.embedding_dim,
          number,
          table.embedding_dim,
          table.is_wide};
}

// What an occurrence of a row contributes: `factor` times columns of a sample's gradient; for a
// maximum only those that it is the source of.
struct alignas(16) Occurrence {
  uint32_t sample;  // kNone if it contributes nothing
  uint32_t column;  // the feature's first
  float factor;
  uint32_t within;  // its position in its bag; kNone unless the feature is pooled by max
};

constexpr Occurrence kNoOccurrence = {kNone, 0, 0.0f, kNone};

__device__ __forceinline__ Occurrence occurrence_at(const RowGradientSource& source, uint32_t k,
                                                    uint32_t table) {
  const uint32_t position = source.positions[k], bag = source.bags[k];
  if (bag >= source.num_bags || position >= source.num_indices) return kNoOccurrence;
  const uint32_t number = bag / source.batch_size;
  const Feature& feature = source.features[number];
  if (feature.table != table) return kNoOccurrence;
  float factor = source.per_sample_weights ? source.per_sample_weights[position] : 1.0f;
  const uint32_t pooling = feature.pooling;
  if (pooling == kMean) factor = __fdiv_rn(factor, float(source.bag_lengths[bag]));
  const uint32_t within = pooling == kMax ? position - uint32_t(offset_of(source, bag)) : kNone;
  return {bag - number * source.batch_size, feature.column, factor, within};
}

__device__ __forceinline__ const float* gradient_of(const RowGradientSource& source,
                                                    const Occurrence& of) {
  return source.grad_output + of.sample * source.grad_output_ld + of.column;
}

// Whatever is added to a negative zero is the sum, a negative zero included.
template <int N>
__device__ __forceinline__ Vec<float, N> negative_zero() {
  Vec<float, N> sum;
#pragma unroll
  for (int j = 0; j < N; ++j) sum.at[j] = -0.0f;
  return sum;
}

// Adds to `sum` what kAtOnce occurrences contribute to the N columns from `column` on, in their
// order; all of it is loaded before the first addition. `occurrence(k)` is one of them.
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
    loaded[k] = load<N>(gradient_of(source, of) + column);
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

// Adds `count` occurrences from `start` on, which the lanes of the group look up side by side, one
// each, and hand round.
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
    // All lanes ask for their gradients at once, of which registers hold no more than kAtOnce.
    if (my.sample != kNone) {
#pragma unroll 1
      for (uint32_t k = 0; k < row.dim; k += 32) prefetch_line(gradient_of(source, my) + k);
    }
    const uint32_t end = min(group.lanes, longest - first);
#pragma unroll 1
    for (uint32_t k0 = 0; k0 < end; k0 += kAtOnce) {
      add_occurrences<N, kAtOnce>(source, sum, column, active, [&](uint32_t k) {
        // Lanes beyond the last one of the group would be those of the first occurrences once more.
        const uint32_t sample = from_lane(group, my.sample, k0 + k);
        return Occurrence{k0 + k < end ? sample : kNone, from_lane(group, my.column, k0 + k),
                          from_lane(group, my.factor, k0 + k), from_lane(group, my.within, k0 + k)};
      });
    }
  }
}

// What an optimizer remembers of a row, and what there is of its Step.
struct RowState {
  float squares;  // the sum of those of its gradients, of kRowwiseAdagrad
  float learning_rate, l2, shrink;
};

// Occurrences of a row side by side. Where there are none, there is no row.
struct Run {
  Row row;
  uint32_t start, end;

  __device__ uint32_t count() const { return end - start; }
};

// All occurrences of a row of the batch.
__device__ __forceinline__ Run occurrences_of(const RowGradientSource& source, uint64_t k) {
  const uint32_t start = source.segments[k], end = min(source.segments[k + 1], source.num_indices);
  const Row row = row_at(source.tables, source.num_tables, source.rows[k]);
  return row.exists() && start < end ? Run{row, start, end} : Run{};
}

// What is looked up of a row before its gradient is summed.
struct KnownRow : Run {
  Occurrence first[kKnown];
  RowState state;
};

// What rows that a warp works on have in common.
struct RowBatch {
  uint32_t widest;   // the most columns
  uint32_t longest;  // the most occurrences
};

// Calls `work(width, batch, number, row)` for the groups' share of the first `count` rows of the
// batch; in place of those behind the last one for what is none. A warp looks up 32 rows at once, a
// lane each, so that no group waits for one look-up after another of each of its rows. They lie far
// apart, since of rows side by side all may be hot. `target.state(row)` is a row's state, and
// `target.prefetch(row, column)` asks for what else is needed of the next row, from a column on
// that is the calling lane's.
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
    by_width(is_wide && my.row.can_be_wide(), [&](auto width) {
      __syncwarp();
#pragma unroll 1
      for (uint32_t k = 0; k < rows; k += groups) {
        const uint32_t of_group = k + lane / group.lanes;
        if (k + groups < rows) {
          const KnownRow& next = of_warp[of_group + groups];
          const uint32_t column = group.lane * decltype(width)::kElements;
          if (column < next.row.dim) {
            target.prefetch(next.row, column);
            if (next.first[0].sample != kNone)
              prefetch_line(gradient_of(source, next.first[0]) + column);
          }
        }
        work(width, batch, first + of_group * warps, of_warp[of_group]);
      }
    });
    // Sooner than a sum that 32 bits do not hold.
    if (count - first <= 32 * warps) return;
  }
}

// Adds to `sum` the sums of `count` runs, one after another, for the N columns that the first one's
// are at.
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

// The gradient of N columns of a row: its first chunk, then the sums of the runs behind the first
// one of each length, ever longer.
template <int N>
__device__ __forceinline__ Vec<float, N> sum_row(const RowGradientSource& source,
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
  const uint64_t behind_first = uint64_t(count) - 1;
  const float* sums = source.run_sums + column;
#pragma unroll 1
  for (uint32_t shift = kChunkBits; behind_first >> shift; shift += kChunkBits) {
    // A run's place is that of the window in which it begins, so places rise by one.
    const uint64_t first = (known.start + (uint64_t(1) << shift)) >> shift;
    const uint32_t runs = uint32_t(min(behind_first >> shift, uint64_t(kChunk - 1)));
    add_runs(sum, sums + first * source.run_sums_ld, source.run_sums_ld, runs);
    sums += windows(source.num_indices, shift) * source.run_sums_ld;
  }
  return sum;
}

// Calls `work(column, active)` for the columns of the rows of a warp, as many at a time as the
// lanes of a group take, up to the widest row; `active` tells whether the row of the calling lane
// has them.
template <int N, typename Work>
__device__ __forceinline__ void for_each_column(const Group& group, uint32_t widest, uint32_t dim,
                                                Work work) {
#pragma unroll 1
  for (uint32_t start = 0; start < widest; start += group.lanes * N) {
    const uint32_t column = start + group.lane * N;
    work(column, column < dim);
  }
}

// The segment that holds an occurrence, found by a whole warp.
__device__ __forceinline__ uint32_t segment_of(const uint32_t* segments, uint32_t count,
                                               uint32_t occurrence) {
  uint32_t low = 0, high = count;
#pragma unroll 1
  while (high - low > 1) {
    const uint32_t step = (high - low + 31) / 32;
    const uint64_t probe = low + uint64_t(threadIdx.x % 32) * step;
    const uint32_t begun = __ballot_sync(kWarp, probe < high && segments[probe] <= occurrence) | 1;
    low += (31 - __clz(begun)) * step;
    high = min(high, low + step);
  }
  return low;
}

// The run of `1 << shift` occurrences of a row, or of what is left of them, other than the row's
// first, that begins in a window of as many occurrences, found by a whole warp: runs behind the
// first begin at least that far apart.
__device__ __forceinline__ Run run_in_window(const RowGradientSource& source, uint32_t num_rows,
                                             uint64_t window, uint32_t shift) {
  const uint64_t occurrence = window << shift, size = uint64_t(1) << shift;
  // Such a run begins less than its size after the window, and its row at least as far before that:
  // the window begins within the row.
  const Run found =
      occurrences_of(source, segment_of(source.segments, num_rows, uint32_t(occurrence)));
  if (!found.row.exists() || found.start >= occurrence) return {};
  const uint64_t start = found.start + ((occurrence - found.start + size - 1) >> shift << shift);
  if (start >= found.end) return {};
  return {found.row, uint32_t(start), uint32_t(min(start + size, uint64_t(found.end)))};
}
