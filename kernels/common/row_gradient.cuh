// The gradient of table rows: sums over the occurrences of a row in a sorted batch. The order of
// the additions is fixed by src/ops/sparse_update.rs.
#pragma once

#include "bags.cuh"
#include "optimizer.cuh"
#include "params/sparse_update.cuh"
#include "reduce.cuh"
#include "vec.cuh"

// The number of loads that a lane has in flight while it adds sums of runs. It has up to twice as
// many while it adds the occurrences of a chunk.
constexpr int kInFlight = 4;
// The most runs that begin in a window of kChunk occurrences: a later chunk of the row that began
// before it, and the first chunks of rows with more than kFew occurrences.
constexpr uint32_t kMostRuns = 1 + kChunk / (kFew + 1);
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
// groups, in blocks of kBlock threads.
template <int kBlock = kThreads, typename Work>
__device__ __forceinline__ void for_each(uint64_t count, uint32_t lanes, Work work) {
  const uint64_t groups = uint64_t(gridDim.x) * kBlock / lanes;
#pragma unroll 1
  for (uint64_t k = (uint64_t(blockIdx.x) * kBlock + threadIdx.x) / lanes; k < count; k += groups)
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
  uint32_t index;  // The row's index among the rows of the batch.

  __device__ bool exists() const { return dim > 0; }
};

// Returns row `index` of `rows`, the linear rows of a batch.
__device__ __forceinline__ Row row_at(const Table* tables, uint32_t num_tables,
                                      const uint64_t* rows, uint32_t index) {
  const uint64_t linear = rows[index];
  const uint32_t number = table_of_row(tables, num_tables, linear);
  if (number >= num_tables) return {};
  const Table table = tables[number];
  return {linear - table.first_row, number, table.embedding_dim, table.is_wide, index};
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

// Returns the occurrence of a row of `table` at a position among the ids, in a bag. Returns
// kNoOccurrence if the order is wrong: if bag or position is out of bounds, or if the bag looks up
// another table.
__device__ __forceinline__ Occurrence occurrence_at(const RowGradientSource& source,
                                                    uint32_t position, uint32_t bag,
                                                    uint32_t table) {
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

// Returns the address of the source of the maximum in a column of an occurrence's bag.
__device__ __forceinline__ const uint32_t* argmax_of(const RowGradientSource& source,
                                                     const Occurrence& of, uint32_t column) {
  return source.argmax + of.sample * source.argmax_ld + of.column + column;
}

// Returns the neutral element of the sum: -0.0 + x is x for every x, also for -0.0.
template <int N>
__device__ __forceinline__ Vec<float, N> negative_zero() {
  Vec<float, N> sum;
#pragma unroll
  for (int j = 0; j < N; ++j) sum.at[j] = -0.0f;
  return sum;
}

// Loads N columns of the gradient of an occurrence. With max pooling those columns are zero whose
// maximum came from elsewhere; `argmax` points to the sources of the maxima.
template <int N>
__device__ __forceinline__ Vec<float, N> load_gradient(const RowGradientSource& source,
                                                       const Occurrence& of, const void* gradient,
                                                       const uint32_t* argmax) {
  Vec<float, N> loaded = load_as_f32<N>(source.grad_output_type, gradient);
  if (of.within == kNone) return loaded;
  const Vec<uint32_t, N> from = load<N>(argmax);
#pragma unroll
  for (int j = 0; j < N; ++j) loaded.at[j] = from.at[j] == of.within ? loaded.at[j] : 0.0f;
  return loaded;
}

// Adds to `sum` the contribution of an occurrence: `factor` times its gradient.
template <int N>
__device__ __forceinline__ void add_gradient(const RowGradientSource& source, Vec<float, N>& sum,
                                             float factor, Vec<float, N> gradient) {
  if (source.max_gradient < kInfinity) {
#pragma unroll
    for (int j = 0; j < N; ++j) gradient.at[j] = clamped(gradient.at[j], source.max_gradient);
  }
#pragma unroll
  for (int j = 0; j < N; ++j) sum.at[j] = __fadd_rn(sum.at[j], __fmul_rn(factor, gradient.at[j]));
}

// Adds to `sum` the contributions of kAtOnce occurrences to the N columns from `column` on, in
// their order. All loads are issued before the first addition, so that their latencies overlap.
template <int N, int kAtOnce>
__device__ __forceinline__ void add_occurrences(const RowGradientSource& source, Vec<float, N>& sum,
                                                uint32_t column, bool active,
                                                const Occurrence* occurrences) {
  Vec<float, N> gradient[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    const Occurrence& of = occurrences[k];
    if (!active || of.sample == kNone) continue;
    gradient[k] = load_gradient<N>(source, of, gradient_of(source, of, column),
                                   argmax_of(source, of, column));
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    const Occurrence& of = occurrences[k];
    if (active && of.sample != kNone) add_gradient(source, sum, of.factor, gradient[k]);
  }
}

// Returns a sum over occurrences without the loss scale: the gradient.
template <int N>
__device__ __forceinline__ Vec<float, N> without_scale(const RowGradientSource& source,
                                                       Vec<float, N> sum) {
#pragma unroll
  for (int j = 0; j < N; ++j) sum.at[j] = __fmul_rn(sum.at[j], source.factor);
  return sum;
}

// Stores the sum of a run in L2, from where any multiprocessor reads it next. The vectorised store
// is spelled out, since the compiler would merge the stores of both widths into single elements.
template <int N>
__device__ __forceinline__ void store_sum(float* to, const Vec<float, N>& sum) {
  if constexpr (N == 4) {
    __stcg(reinterpret_cast<float4*>(to), make_float4(sum.at[0], sum.at[1], sum.at[2], sum.at[3]));
  } else {
    *to = sum.at[0];
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
  const Row row = row_at(source.tables, source.num_tables, source.rows, uint32_t(k));
  return row.exists() && start < end ? Run{row, start, end} : Run{};
}

// Returns the number of lanes below the calling one that are set in a mask of the warp.
__device__ __forceinline__ uint32_t lanes_before(uint32_t mask) {
  return __popc(mask & ((1u << (threadIdx.x % 32)) - 1));
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

// A row with what is looked up before its gradient is summed.
struct KnownRow : Run {
  RowState state;
};

// A row that `for_rows` hands out. The occurrences are those of a row that has few.
struct HeldRow : KnownRow {
  Occurrence few[kFew];
};

// Returns the gradient of N columns of a row with few occurrences, or with more than a chunk. The
// latter has the sum of its first chunk, to which the sums of later runs are added at each level of
// the reduction tree, from the shortest runs to the longest. `longest` is the largest number of
// occurrences of a row of the warp.
template <int N>
__device__ __forceinline__ Vec<float, N> sum_row(const RowGradientSource& source,
                                                 const HeldRow& held, uint32_t longest,
                                                 uint32_t column, bool active) {
  Vec<float, N> sum = negative_zero<N>();
  add_occurrences<N, 1>(source, sum, column, active, held.few);
  if (longest > 1) add_occurrences<N, kFew - 1>(source, sum, column, active, held.few + 1);
  if (longest > kChunk && active && held.count() > kChunk) {
    const uint64_t ld = source.run_sums_ld;
    sum = load<N>(source.first_sums + (held.start >> kChunkBits) * ld + column);
    // A row has `behind_first >> shift` runs of `1 << shift` occurrences behind its first one. At
    // most kChunk - 1 of them are added here; the runs of the next level hold the others.
    const uint64_t behind_first = uint64_t(held.count()) - 1;
    const float* sums = source.run_sums + column;
#pragma unroll 1
    for (uint32_t shift = kChunkBits; behind_first >> shift; shift += kChunkBits) {
      // The sum of a run is stored at the window in which the run begins, so the places of
      // consecutive runs are consecutive.
      const uint64_t first = (held.start + (uint64_t(1) << shift)) >> shift;
      const uint32_t runs = uint32_t(min(behind_first >> shift, uint64_t(kChunk - 1)));
      add_runs(sum, sums + first * ld, ld, runs);
      sums += windows(source.num_indices, shift) * ld;
    }
  }
  return without_scale(source, sum);
}

// Calls `work(width, widest, row, state, gradient)` for this group's share of the rows that have at
// most kFew occurrences, or more than a chunk, and with an empty row while only other groups of the
// warp have one. `widest` is the largest number of columns of a row of the warp, and
// `gradient(column, active)` returns the gradient of `width` columns.
//
// A warp looks up 32 rows at once, one per lane, and keeps them in shared memory, so that no group
// waits for a chain of dependent loads per row. These rows are a stride of all warps apart, since
// neighbouring rows may all be hot. While a group works on a row, it prefetches the next one.
//
// `target.state(row)` returns the state of a row, and `target.is_wide(row)` whether vectorised
// loads of four columns can read and write it. `target.prefetch(state, column)` prefetches the
// weights of a row at the column of the calling lane.
template <typename Target, typename Work>
__device__ __forceinline__ void for_rows(const RowGradientSource& source, const Group& group,
                                         bool is_wide, const Target& target, Work work) {
  const uint32_t count = num_rows_of(source);
  __shared__ HeldRow held[kThreads];
  const uint32_t lane = threadIdx.x % 32, groups = 32 / group.lanes;
  const uint32_t warps = gridDim.x * (kThreads / 32);
  HeldRow* const of_warp = held + threadIdx.x / 32 * 32;
#pragma unroll 1
  for (uint32_t first = (blockIdx.x * kThreads + threadIdx.x) / 32; first < count;
       first += 32 * warps) {
    Run my = lane * warps < count - first ? occurrences_of(source, first + lane * warps) : Run{};
    // `for_chunks` takes the rows in between.
    if (my.count() > kFew && my.count() <= kChunk) my = {};
    const uint32_t existing = __ballot_sync(kWarp, my.row.exists()), rows = __popc(existing);
    // The empty rows follow the others.
    HeldRow& mine =
        of_warp[my.row.exists() ? lanes_before(existing) : rows + lanes_before(~existing)];
    __syncwarp();
    static_cast<Run&>(mine) = my;
#pragma unroll
    for (uint32_t k = 0; k < kFew; ++k) {
      const uint32_t at = my.start + k;
      mine.few[k] = k < my.count() && my.count() <= kFew
                        ? occurrence_at(source, source.positions[at], source.bags[at], my.row.table)
                        : kNoOccurrence;
    }
    mine.state = my.row.exists() ? target.state(my.row) : RowState{};
    const uint32_t widest = __reduce_max_sync(kWarp, my.row.dim),
                   longest = __reduce_max_sync(kWarp, my.count());
    const bool can_be_wide = !my.row.exists() || (my.row.is_wide && target.is_wide(my.row));
    by_width(is_wide && can_be_wide, [&](auto width) {
      constexpr int N = decltype(width)::kElements;
      __syncwarp();
#pragma unroll 1
      for (uint32_t k = 0; k < rows; k += groups) {
        const uint32_t of_group = k + lane / group.lanes;
        if (k + groups < rows) {
          const HeldRow& next = of_warp[of_group + groups];
          const uint32_t column = group.lane * N;
          if (column < next.row.dim) {
            target.prefetch(next.state, column);
            if (next.few[0].sample != kNone)
              prefetch_line(gradient_of(source, next.few[0], column));
          }
        }
        const HeldRow& row = of_warp[of_group];
        work(width, widest, row.row, row.state, [&](uint32_t column, bool active) {
          return sum_row<N>(source, row, longest, column, active);
        });
      }
    });
    // Leaves before `first` overflows 32 bits.
    if (count - first <= 32 * warps) return;
  }
}

// A chunk that begins in a window.
struct Chunk : KnownRow {
  // The place of its sum, or null if it is the whole segment of its row.
  float* sum;
};

// The chunks that begin in a window of kChunk occurrences, as the warp keeps them that sums them.
struct Window {
  // The chunks in the order of occurrences. The last one is empty.
  Chunk chunks[kMostRuns + 1];
  // The numbers of these chunks: first those whose sums are stored, then whole segments.
  uint32_t order[kMostRuns];
  // The occurrences from the window's first one on. A chunk may end in the next window.
  Occurrence found[2 * kChunk];
  // The gradients of their bags. A look-up computes these once for all lanes that add a gradient.
  const char* gradients[2 * kChunk];
  // The gradients in flight: two halves of kInFlight vectorised loads of each lane.
  uint4 ring[2][kInFlight][32];
};

// Finds the chunks that begin in a window and belong to rows with more than kFew occurrences.
// Returns their number and, in `begun`, the places where they begin. The chunks lack their rows.
__device__ __forceinline__ uint32_t find_chunks(const RowGradientSource& source, uint32_t num_rows,
                                                uint64_t window, Window& of_warp, uint64_t& begun) {
  const uint32_t lane = threadIdx.x % 32, first = uint32_t(window << kChunkBits);
  const uint64_t row = segment_of(source.segments, num_rows, first);
  uint32_t count = 0;
  begun = 0;
  // A window has at most as many rows as occurrences: two for each lane.
  constexpr int kEach = kChunk / 32;
  uint32_t start[kEach], end[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const uint64_t k = row + 32 * j + lane;
    start[j] = k < num_rows ? source.segments[k] : kNone;
    end[j] = k < num_rows ? min(source.segments[k + 1], source.num_indices) : 0;
  }
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    // Only the first row may have begun before the window. Its chunks are counted from its start.
    const uint32_t before = start[j] < first ? first - start[j] : 0,
                   skipped = before + (0 - before) % kChunk, of_row = end[j] - start[j];
    const bool is_here = start[j] < end[j] && of_row > kFew && skipped < of_row &&
                         start[j] + skipped - first < kChunk && skipped >= before;
    const uint32_t here = __ballot_sync(kWarp, is_here), slot = count + lanes_before(here),
                   at = start[j] + skipped - first;
    if (is_here && slot < kMostRuns) {
      Chunk& chunk = of_warp.chunks[slot];
      chunk.row.index = uint32_t(row + 32 * j + lane);
      chunk.start = first + at;
      chunk.end = chunk.start + min(of_row - skipped, kChunk);
      chunk.sum = of_row <= kChunk ? nullptr
                                   : (skipped > 0 ? source.run_sums : source.first_sums) +
                                         window * source.run_sums_ld;
    }
    begun |= uint64_t(__reduce_or_sync(kWarp, is_here && at < 32 ? 1u << at : 0)) |
             uint64_t(__reduce_or_sync(kWarp, is_here && at >= 32 ? 1u << (at - 32) : 0)) << 32;
    count = min(count + __popc(here), kMostRuns);
  }
  return count;
}

// Looks up the occurrences of the chunks that begin in a window, at `begun`, and prefetches their
// gradients. Each lane looks up four of them at once, so that the latencies overlap, and all
// gradients of a window are in flight at once. Returns false if the order is wrong.
__device__ __forceinline__ bool find_occurrences(const RowGradientSource& source, uint32_t first,
                                                 uint64_t begun, uint32_t count, Window& of_warp) {
  constexpr int kEach = 2 * kChunk / 32;
  const uint32_t lane = threadIdx.x % 32;
  uint32_t number[kEach], position[kEach], bag[kEach];
  bool is_right = true;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const uint32_t at = 32 * j + lane;
    const uint64_t up_to = at < kChunk ? begun << (kChunk - 1 - at) : begun;
    // A wrong order may let two chunks begin at one place.
    number[j] = up_to ? min(uint32_t(__popcll(up_to)), count) - 1 : kMostRuns;
    const Chunk& chunk = of_warp.chunks[number[j]];
    if (chunk.start - first > at || chunk.end - first <= at) number[j] = kMostRuns;
    if (!of_warp.chunks[number[j]].row.exists()) continue;
    position[j] = source.positions[first + at];
    bag[j] = source.bags[first + at];
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const Row& row = of_warp.chunks[number[j]].row;
    const Occurrence my =
        row.exists() ? occurrence_at(source, position[j], bag[j], row.table) : kNoOccurrence;
    if (my.sample == kNone) {
      is_right &= number[j] == kMostRuns;
      continue;
    }
    of_warp.found[32 * j + lane] = my;
    of_warp.gradients[32 * j + lane] = static_cast<const char*>(gradient_of(source, my, 0));
#pragma unroll 1
    for (uint32_t k = 0; k < row.dim; k += source.grad_output_type == kF32 ? 32 : 64)
      prefetch_line(gradient_of(source, my, k));
    if (my.within == kNone) continue;
#pragma unroll 1
    for (uint32_t k = 0; k < row.dim; k += 32) prefetch_line(argmax_of(source, my, k));
  }
  return __all_sync(kWarp, is_right);
}

// Returns the sum of `count` occurrences that a window holds from `start` on, in N of its columns.
// The gradients come through a ring in shared memory, so that no registers wait for them: while a
// lane adds those of one half, copies into the other half are in flight. With max pooling a half
// holds half as many, and behind them the sources of the maxima.
template <int N>
__device__ __forceinline__ Vec<float, N> sum_chunk(const RowGradientSource& source, Window& window,
                                                   uint32_t start, uint32_t count, uint32_t column,
                                                   bool active) {
  const bool is_f32 = source.grad_output_type == kF32, has_max = source.argmax,
             is_plain = !has_max && !(source.max_gradient < kInfinity);
  const uint32_t lane = threadIdx.x % 32, longest = __reduce_max_sync(kWarp, count),
                 mine = active ? count : 0, at_once = has_max ? kInFlight / 2 : kInFlight,
                 offset = column * (is_f32 ? 4 : 2);
  const char* const* const gradients = window.gradients + start;
  const Occurrence* const found = window.found + start;
  uint4(*half)[32] = window.ring[0];
  uint4(*other)[32] = window.ring[1];
  const auto fetch = [&](uint32_t first, uint4(*to)[32]) {
    const uint32_t end = min(mine, first + at_once);
#pragma unroll
    for (uint32_t k = 0; k < kInFlight; ++k) {
      if (first + k >= end) continue;
      const void* const from = gradients[first + k] + offset;
      if (is_f32) {
        fetch_async<N>(reinterpret_cast<float*>(&to[k][lane]), static_cast<const float*>(from));
      } else {
        fetch_async<N>(reinterpret_cast<f16*>(&to[k][lane]), static_cast<const f16*>(from));
      }
      if (!has_max || found[first + k].within == kNone) continue;
      fetch_async<N>(reinterpret_cast<uint32_t*>(&to[(k + kInFlight / 2) % kInFlight][lane]),
                     argmax_of(source, found[first + k], column));
    }
    commit_copies();
  };
  Vec<float, N> sum = negative_zero<N>();
  fetch(0, half);
#pragma unroll 1
  for (uint32_t first = 0; first < longest; first += at_once) {
    fetch(first + at_once, other);
    wait_for_copies<1>();
    const uint32_t end = min(mine, first + at_once);
    const auto add = [&](auto plain) {
#pragma unroll
      for (uint32_t k = 0; k < kInFlight; ++k) {
        if (first + k >= end) continue;
        const Occurrence& of = found[first + k];
        if constexpr (decltype(plain)::value) {
          const Vec<float, N> gradient = load_as_f32<N>(source.grad_output_type, &half[k][lane]);
#pragma unroll
          for (int j = 0; j < N; ++j)
            sum.at[j] = __fadd_rn(sum.at[j], __fmul_rn(of.factor, gradient.at[j]));
        } else {
          const uint4* const argmax = &half[(k + kInFlight / 2) % kInFlight][lane];
          add_gradient(source, sum, of.factor,
                       load_gradient<N>(source, of, &half[k][lane],
                                        reinterpret_cast<const uint32_t*>(argmax)));
        }
      }
    };
    // Instructions count here: a hot batch has little else.
    if (is_plain) {
      add(Bool<true>{});
    } else {
      add(Bool<false>{});
    }
    uint4(*const filled)[32] = other;
    other = half;
    half = filled;
  }
  return sum;
}

// Sums all chunks of rows with more than kFew occurrences. A warp takes one window at a time, looks
// up the chunks that begin in it, and all their occurrences, at once, and keeps them in shared
// memory. Its groups then sum a chunk each. The sum of a chunk is stored, unless it is the whole
// segment of its row: then `work` is called with it, as by `for_rows`.
template <typename Target, typename Work>
__device__ __forceinline__ void for_chunks(const RowGradientSource& source, const Group& group,
                                           bool is_wide, const Target& target, Work work) {
  __shared__ Window windows[kChunkThreads / 32];
  Window& of_warp = windows[threadIdx.x / 32];
  const uint32_t lane = threadIdx.x % 32, of_group = lane / group.lanes, groups = 32 / group.lanes,
                 num_rows = num_rows_of(source);
  if (num_rows == 0) return;
  if (lane == 0) of_warp.chunks[kMostRuns] = {};
  for_each<kChunkThreads>(num_windows_of(source, kChunkBits), 32, [&](uint64_t window) {
    const uint32_t first = uint32_t(window << kChunkBits);
    uint64_t begun;
    const uint32_t count = find_chunks(source, num_rows, window, of_warp, begun);
    if (count == 0) return;
    __syncwarp();
    Chunk& my = of_warp.chunks[lane < count ? lane : kMostRuns];
    Row row = {};
    if (lane < count) {
      row = row_at(source.tables, source.num_tables, source.rows, my.row.index);
      my.row = row;
      my.state = row.exists() && !my.sum ? target.state(row) : RowState{};
    }
    const bool is_stored = lane < count && my.sum;
    const uint32_t stored = __ballot_sync(kWarp, is_stored), num_stored = __popc(stored);
    if (lane < count)
      of_warp.order[is_stored ? lanes_before(stored) : num_stored + lanes_before(~stored)] = lane;
    const uint32_t widest = __reduce_max_sync(kWarp, row.dim);
    const bool can_be_wide = !row.exists() || (row.is_wide && (is_stored || target.is_wide(row)));
    __syncwarp();
    // Nobody uses the sums of a wrong order.
    if (!find_occurrences(source, first, begun, count, of_warp)) return;
    __syncwarp();
    by_width(is_wide && can_be_wide, [&](auto width) {
      constexpr int N = decltype(width)::kElements;
      const auto chunk_at = [&](uint32_t k, uint32_t end) -> const Chunk& {
        return of_warp.chunks[k < end ? of_warp.order[k] : kMostRuns];
      };
      const auto sum_of = [&](const Chunk& chunk, uint32_t column, bool active) {
        return sum_chunk<N>(source, of_warp, (chunk.start - first) % kChunk, chunk.count(), column,
                            active);
      };
#pragma unroll 1
      for (uint32_t k = 0; k < num_stored; k += groups) {
        const Chunk& chunk = chunk_at(k + of_group, num_stored);
        for_each_column<N>(group, widest, chunk.row.dim, [&](uint32_t column, bool active) {
          const Vec<float, N> sum = sum_of(chunk, column, active);
          if (active) store_sum(chunk.sum + column, sum);
        });
      }
#pragma unroll 1
      for (uint32_t k = num_stored; k < count; k += groups) {
        const Chunk& chunk = chunk_at(k + of_group, count);
        work(width, widest, chunk.row, chunk.state, [&](uint32_t column, bool active) {
          return without_scale(source, sum_of(chunk, column, active));
        });
      }
    });
  });
}
