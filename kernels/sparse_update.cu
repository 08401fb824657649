// sparse_update.cu: the gradients of table rows, and optimizer steps on the rows that have one.
//
// Computes     for each row of a sorted batch the sum over its occurrences, the ids that name it,
//              which form one segment of the batch; then one step of an optimizer. The Rust side
//              has the maths
// Rust         src/ops/sparse_update.rs, src/backend/cuda/sparse_update.rs
// Entries      sparse_update_{update_rows,update_chunks,apply}_{f32,f16,bf16},
//              sparse_update_{reduce_rows,reduce_chunks,runs,starts,interleave,add}
// Algorithm    1. A segment is cut into chunks of 64 occurrences. A batch is skewed: most rows
//                 occur once or twice, some often, few very often. `chunks`, here and below that of
//                 `update` and of `reduce`, takes the rows of more than kFew occurrences, and
//                 `rows` all others, so that a warp has neither long loops nor groups that wait for
//                 one.
//              2. `chunks` cuts the batch into windows of 64 occurrences, one warp each, which
//                 takes the chunks that begin in its window: at most 17, with at most 127
//                 occurrences, whatever the skew. A warp looks up these chunks, and then all their
//                 occurrences, at once, since each look-up is a chain of dependent loads. It
//                 prefetches all their gradients into L2.
//              3. Its groups of lanes sum a chunk each. cp.async copies the gradients to shared
//                 memory, up to eight at once for each lane, which need no registers there.
//              4. A row of one chunk takes its step at once. Storing its sum for another kernel
//                 would cost 8 D bytes for each row, and a place for each four ids: a quarter of
//                 the gradients' size. The sums of the chunks of hotter rows are stored. At most
//                 one first chunk of such a row begins in a window, and at most one later chunk, so
//                 that the window's number is the place of either, and no prefix sum must assign
//                 places.
//              5. `runs` sums runs of 64 chunks, of 64 times 64, and so on, except for the first of
//                 each segment, from the sums of the next shorter runs: one launch for each level
//                 of the reduction tree that there could be, with windows as long as its runs.
//              6. `rows` assigns a group of lanes to each row: a power of two, at most a warp, with
//                 vectorised loads of four columns per lane where the rows are aligned.
//              7. A warp looks up 32 rows at once, one per lane, and keeps those that it takes,
//                 with their few occurrences, in shared memory. They are limited by the chain of
//                 loads from row to occurrence to sample to gradient, and so 32 chains overlap.
//                 While a group sums one row, it prefetches the weights and gradients of the next
//                 one into L2. The groups of a warp stay converged, since shuffles with a partial
//                 mask cost several times as much as those of whole warps.
//              8. For a hot row the group adds the sum of its first chunk and at most 63 sums of
//                 each level of the tree. The order of all additions is that of the CPU.
//              9. `starts` finds where the rows and the values of each table begin in a sparse
//                 gradient. Rows of a table have equal lengths, so this gives `reduce` and `add`
//                 the place of every row, without a prefix sum over rows.
//             10. `apply` makes the step of `update` from a sparse gradient. A group takes one row
//                 at a time, without step 7, since one load, of its start, leads to a row's values.
//             11. To add two gradients, `interleave` merges two sorted lists: the place of a row is
//                 its number plus the number of rows of the other list before it. index_sort's
//                 kernel numbers the merged rows, and `add` sums the one or two sources of each.
// Mapping      rows, here groups of 4 lanes for rows of 16 columns:
//                look-up   lane l        -> row first + l * warps
//                sum       lanes  0 .. 3 -> row 0, then row  8, 16, 24 of the 32
//                          lanes  4 .. 7 -> row 1, then row  9, 17, 25
//                          lane l of the group -> columns 4 l .. 4 l + 3
//              add, apply: group g -> row g; interleave: thread t -> row t; starts: t -> table t
//              chunks, one warp per window w of 64 occurrences, groups as above:
//                windows      |    w - 1    |         w         |    w + 1    |
//                segments     ..   hot row            | a |b|    c    | ..
//                chunks of w  ..  chunk of w - 1 | hot | a | |    c    |   b has few occurrences
//                look-up      lane l -> rows l, 32 + l; occurrences l, 32 + l, 64 + l, 96 + l
//                sum          group g -> chunk g, g + groups, .. : first those that are stored
//              runs, where w = 1 << shift; one warp per window:
//                occurrences  0       w      2w      3w      4w
//                windows      |   0   |   1   |   2   |   3   |
//                segment          | first | run 1 | run 2 |..  run 1 begins in window 1
// Launch       block 256, chunks 128; rows: as many blocks as run at the same time, at most enough
//              for all rows that there could be; the others: enough for all rows or windows that
//              there could be, at most 8192. These are grid-stride loops. starts: one block
// Bytes        as bytes_moved(), which counts a row for each id that names it, and the sums of runs
//              of hot rows written and read once; the least traffic counts each distinct row once.
//              `chunks` besides reads about 75 sectors for each window, in which it finds its rows
// Requires     vectorised loads of four elements where rows, and their columns in the gradient,
//              begin at multiples of four elements, else one element at a time. The gradient of the
//              output may be of 16 bits: its type is a parameter. The order of the batch is not
//              trusted: whatever it holds, no access leaves the buffers.
// Numerics     f32, every product, sum, quotient and root rounded separately, in one order: the
//              same bits for any launch, and on the CPU. A loss scale is divided out of the sum of
//              a row, which rounds nothing above the subnormal numbers
// Measured     NVIDIA H200, 2026-11-27, f32, one id a bag, when `rows` summed all first chunks: D
//              128 B 65536, SGD 718 us (uniform), 547 us (Zipf), row-wise Adagrad 865 and 565 us; D
//              64 B 2048, SGD 26 us (uniform), 48 us (Zipf). Since then compiled and emulated, not
//              yet measured. Not yet measured at all: the share of stream (copy), Adagrad, Adam,
//              tables and gradients of 16 bits, FBGEMM's shape

#include "common/optimizer.cuh"
#include "common/philox.cuh"
#include "common/rounding.cuh"
#include "common/row_gradient.cuh"
#include "common/scan.cuh"
#include "params/sparse_update.cuh"

// The number of columns whose squares are summed by one reduction tree, as on the CPU. These are
// not the runs of occurrences.
constexpr uint32_t kRun = 32;

// Sums one level of the reduction tree: the runs of `1 << shift` occurrences of each row, except
// for the row's first run. The summands are the sums of the next shorter runs at `shorter_sums`;
// each result goes to the place of its window. A warp takes one window at a time, as in `chunks`.
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    sparse_update_runs(const __grid_constant__ SparseUpdateRuns p) {
  const RowGradientSource& source = p.source;
  const uint32_t num_rows = num_rows_of(source), shorter = p.shift - kChunkBits;
  if (num_rows == 0 || is_shut(p.control)) return;
  const Group group = group_of_thread(32);
  for_each(num_windows_of(source, p.shift), 32, [&](uint64_t window) {
    const Run run = run_in_window(source, num_rows, window, p.shift);
    if (!run.row.exists()) return;
    const float* first = p.shorter_sums + (run.start >> shorter) * source.run_sums_ld;
    by_width(source.is_wide && run.row.is_wide, [&](auto width) {
      constexpr int N = decltype(width)::kElements;
      for_each_column<N>(group, run.row.dim, run.row.dim, [&](uint32_t column, bool active) {
        if (!active) return;
        Vec<float, N> sum = negative_zero<N>();
        add_runs(sum, first + column, source.run_sums_ld, ((run.count() - 1) >> shorter) + 1);
        store_sum(p.sums + window * source.run_sums_ld + column, sum);
      });
    });
  });
}

// The weights that an optimizer step changes, and the step.
template <typename E>
struct Target {
  const Table* tables;
  const OptimizerTarget<E>& to;
  const OptimizerStep& step;
  // The values that replace those in `step`, or null. They are read where they are needed, since
  // registers are scarce.
  const StepValues* values;

  // Returns the index of the first value of a row.
  static __device__ uint64_t begin(const TableRows* of_tables, const Row& row) {
    const TableRows rows = of_tables[row.table];
    return rows.start + row.number * rows.stride;
  }

  __device__ RowState state(const Row& row) const {
    const bool has_squares = step.optimizer == kRowwiseAdagrad;
    OptimizerStep of_row = with_values(step, values);
    if (to.decay_scale) {
      const uint64_t linear = tables[row.table].first_row + row.number;
      of_row = with_decay_scaled(of_row, to.decay_scale[linear]);
    }
    const uint64_t first = to.first ? begin(to.first_rows, row) : 0;
    return {begin(to.weight_rows, row), first,     has_squares ? to.first[first] : 0.0f,
            of_row.learning_rate,       of_row.l2, of_row.shrink};
  }

  // Returns true if the row allows vectorised loads of four columns of its weights and state.
  __device__ bool is_wide(const Row& row) const {
    const bool has_squares = step.optimizer == kRowwiseAdagrad;
    return to.weight_rows[row.table].is_wide &&
           (!to.first || has_squares || to.first_rows[row.table].is_wide) &&
           (!to.second || to.second_rows[row.table].is_wide);
  }

  // Returns the second state of a row. It is looked up where it is needed, since registers are
  // scarce.
  __device__ float* seconds(const Row& row) const { return to.second + begin(to.second_rows, row); }

  // Returns the step on a row. Only Adam reads `values` again, for its bias corrections.
  __device__ OptimizerStep step_of(const RowState& state) const {
    OptimizerStep of_row = step.optimizer == kAdam ? with_values(step, values) : step;
    of_row.learning_rate = state.learning_rate;
    of_row.l2 = state.l2;
    of_row.shrink = state.shrink;
    return of_row;
  }

  __device__ void prefetch(const RowState& state, uint32_t column) const {
    prefetch_line(to.weights + state.weight + column);
  }
};

// The target of `sparse_update_reduce`, which makes no optimizer step.
struct NoTarget {
  __device__ RowState state(const Row&) const { return {}; }
  __device__ bool is_wide(const Row&) const { return true; }
  __device__ void prefetch(const RowState&, uint32_t) const {}
};

// Adds the squared gradients of N columns per lane to `squares`, the sum over the columns before
// them, and returns the result. Every kRun columns form one reduction tree; the trees are added in
// order. A group holds whole trees, or the whole row, for either N: the number of its lanes is
// chosen for that.
template <int N>
__device__ __forceinline__ float add_squares(const OptimizerStep& step, const Group& group,
                                             const Vec<float, N>& gradient,
                                             const Vec<float, N>& weight, bool active,
                                             float squares) {
  float tree[N];
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float g = regularised(step, gradient.at[j], weight.at[j]);
    tree[j] = active ? __fmul_rn(g, g) : 0.0f;
  }
#pragma unroll 1
  for (uint32_t half = min(group.lanes, kRun / N) / 2; half > 0; half /= 2) {
#pragma unroll
    for (int j = 0; j < N; ++j) tree[j] += __shfl_xor_sync(kWarp, tree[j], half);
  }
  // The last two levels of a tree lie within a lane.
  const float run = N == 4 ? (tree[0] + tree[2 % N]) + (tree[1 % N] + tree[3 % N]) : tree[0];
  for (uint32_t lane = 0; lane < group.lanes; lane += kRun / N)
    squares += from_lane(group, run, lane);
  return squares;
}

// Stores new weights of a row from `column` on, rounded to nearest or stochastically. The random
// bits are those of `Rounding::Stochastic` in src/ops/optimizer.rs: seed and step make the Philox
// key, and table, row, block of four columns and step its counter. The bits do not depend on the
// launch.
template <int N, typename E>
__device__ __forceinline__ void store_weights(const Target<E>& target, E* to,
                                              const Vec<float, N>& values, const Row& row,
                                              uint32_t column) {
  Vec<E, N> rounded;
  if (sizeof(E) == 4 || !target.to.is_stochastic) {
#pragma unroll
    for (int j = 0; j < N; ++j) rounded.at[j] = from_f32<E>(values.at[j]);
  } else {
    const uint64_t step = target.values ? target.values->step : target.to.step_number;
    const uint2 key =
        make_uint2(uint32_t(target.to.seed), uint32_t(target.to.seed >> 32) ^ uint32_t(step >> 32));
    const uint4 counter = make_uint4(column / 4, uint32_t(row.number),
                                     uint32_t(row.number >> 32) | row.table << 16, uint32_t(step));
    const uint4 random = philox4x32(key, counter);
    if constexpr (N == 4) {
      const uint32_t bits[4] = {random.x, random.y, random.z, random.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) rounded.at[j] = stochastic<E>(values.at[j], bits[j]);
    } else {
      // Selects word `column % 4` by comparisons; an index would move the words to local memory.
      const uint32_t in_half = column % 2, low = in_half ? random.y : random.x,
                     high = in_half ? random.w : random.z;
      rounded.at[0] = stochastic<E>(values.at[0], column % 4 < 2 ? low : high);
    }
  }
  store(to, rounded);
}

// Makes one optimizer step on a row. `gradient(column, active)` returns the gradient of N of its
// columns.
template <int N, typename E, typename Gradient>
__device__ __forceinline__ void step_row(const Target<E>& target, const Group& group,
                                         uint32_t widest, const Row& row, const RowState& state,
                                         Gradient gradient) {
  const bool is_rowwise = target.step.optimizer == kRowwiseAdagrad,
             is_one_pass = widest <= group.lanes * N;
  Vec<float, N> grad, weight;
  float squares = 0.0f, rate = 0.0f;
  // Row-wise Adagrad needs the sum of squares of the whole row before the first weight changes.
  // Both passes share one loop, so that the code that sums gradients exists once.
#pragma unroll 1
  for (bool is_summing = is_rowwise;; is_summing = false) {
    for_each_column<N>(group, widest, row.dim, [&](uint32_t column, bool active) {
      // If a row fits one pass, its weights and gradients are still in registers from the summing
      // pass. Weights are loaded first, so that the loads overlap the sum of the gradient; the
      // state is loaded after the sum, since registers are scarce.
      if (is_summing || !is_rowwise || !is_one_pass) {
        weight =
            active ? load_as_f32<N>(target.to.weights + state.weight + column) : Vec<float, N>{};
        grad = gradient(column, active);
      }
      const OptimizerStep step = target.step_of(state);
      if (is_summing) {
        squares = add_squares(step, group, grad, weight, active, squares);
        return;
      }
      if (!active) return;
      Vec<float, N> first = {}, second = {};
      float* const firsts = target.to.first + state.first + column;
      if (!is_rowwise && target.to.first) first = load<N>(firsts);
      if (target.to.second) second = load<N>(target.seconds(row) + column);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (is_rowwise) first.at[j] = rate;
        weight.at[j] = stepped(step, grad.at[j], weight.at[j], first.at[j], second.at[j]);
      }
      store_weights(target, target.to.weights + state.weight + column, weight, row, column);
      if (!is_rowwise && target.to.first) store(firsts, first);
      if (target.to.second) store(target.seconds(row) + column, second);
    });
    if (!is_summing) return;
    const float sum = __fadd_rn(state.squares, __fdiv_rn(squares, float(row.dim)));
    if (group.lane == 0 && row.exists()) target.to.first[state.first] = sum;
    rate = rowwise_rate(target.step_of(state), sum);
  }
}

// Returns how many of `count` sorted rows lie before a linear row. Binary search.
__device__ __forceinline__ uint32_t rows_before(const uint64_t* rows, uint32_t count,
                                                uint64_t linear) {
  uint32_t low = 0, high = count;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (rows[middle] < linear) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Computes for each table the number of its first row among `num_rows` sorted rows and the index of
// that row's first value: a prefix sum over the tables, one thread per table. One block suffices,
// since tables are few. It also writes the end of the values and the number of rows.
extern "C" __global__ void __launch_bounds__(kThreads)
    sparse_update_starts(const __grid_constant__ SparseUpdateStarts p) {
  const uint32_t count = min(*p.num_rows, p.capacity);
  __shared__ uint64_t end;
  if (threadIdx.x == 0) end = 0;
#pragma unroll 1
  for (uint32_t first = 0; first < p.num_tables; first += kThreads) {
    __syncthreads();
    const uint64_t before = end;
    const uint32_t t = first + threadIdx.x;
    const uint32_t row = t < p.num_tables ? rows_before(p.rows, count, p.tables[t].first_row) : 0;
    const uint64_t values =
        t < p.num_tables ? uint64_t(rows_before(p.rows, count, p.tables[t + 1].first_row) - row) *
                               p.tables[t].embedding_dim
                         : 0;
    const uint64_t start = before + sum_of_threads_before<kThreads>(values);
    if (t < p.num_tables) p.places[t] = {row, start};
    if (threadIdx.x == kThreads - 1) end = start + values;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  p.starts[count] = end;
  *p.counts = count;
}

// Writes gradients of rows into a sparse gradient. `for_rows(group, is_wide, target, work)` calls
// `work` for the rows, as `for_each_row` does.
template <typename ForRows>
__device__ __forceinline__ void reduce(const SparseUpdateReduce& p, ForRows for_rows) {
  const Group group = group_of_thread(p.lanes);
  const auto write = [&](auto width, uint32_t widest, const Row& row, const RowState&,
                         auto gradient) {
    constexpr int N = decltype(width)::kElements;
    const Place place = row.exists() ? p.places[row.table] : Place{};
    const uint64_t start = place.start + (row.index - place.row) * row.dim;
    // A wrong order could place values outside of the gradient.
    const bool has_room = row.exists() && row.index < p.capacity && place.row <= row.index &&
                          start + row.dim <= p.num_values;
    if (has_room && group.lane == 0) {
      p.grad_rows[row.index] = p.source.rows[row.index];
      p.starts[row.index] = start;
    }
    for_each_column<N>(group, widest, row.dim, [&](uint32_t column, bool active) {
      const Vec<float, N> sum = gradient(column, active);
      if (active && has_room) store_any(p.values + start + column, sum.at);
    });
  };
  for_rows(group, p.source.is_wide && is_aligned(p.values, 16), NoTarget{}, write);
}

// Merges the sorted rows of two gradients, one thread per row. Each row keeps its source, a number
// counted through both gradients; among equal rows that of `a` comes first. The remaining places
// are filled with `end_key`.
extern "C" __global__ void __launch_bounds__(kThreads)
    sparse_update_interleave(const __grid_constant__ SparseUpdateInterleave p) {
  const uint32_t a = min(*p.a_count, p.a_capacity), b = min(*p.b_count, p.b_capacity);
  for_each(uint64_t(p.a_capacity) + p.b_capacity, 1, [&](uint64_t k) {
    if (k >= uint64_t(a) + b) p.rows[k] = p.end_key;
    const bool is_a = k < p.a_capacity;
    const uint32_t number = uint32_t(is_a ? k : k - p.a_capacity);
    if (number >= (is_a ? a : b)) return;
    const uint64_t row = (is_a ? p.a_rows : p.b_rows)[number];
    const uint64_t to =
        number + uint64_t(is_a ? rows_before(p.b_rows, b, row) : rows_before(p.a_rows, a, row + 1));
    p.rows[to] = row;
    p.sources[to] = uint32_t(k);
  });
}

// Adds two gradients whose merged rows have been numbered. The sources of row `k`, one or two,
// begin at segments[k]. A group of lanes takes one row at a time.
extern "C" __global__ void __launch_bounds__(kThreads)
    sparse_update_add(const __grid_constant__ SparseUpdateAdd p) {
  const Group group = group_of_thread(p.lanes);
  for_each(*p.out_count, p.lanes, [&](uint64_t k) {
    const Row row = row_at(p.tables, p.num_tables, p.rows, uint32_t(k));
    if (!row.exists()) return;
    const uint32_t dim = row.dim;
    const Place place = p.places[row.table];
    const uint64_t to = place.start + (k - place.row) * dim;
    if (place.row > k || to + dim > p.num_out_values) return;
    if (group.lane == 0) {
      p.out_rows[k] = p.rows[k];
      p.out_starts[k] = to;
    }
    const uint32_t last = min(p.segments[k + 1], p.a_capacity + p.b_capacity);
    for (uint32_t column = group.lane; column < dim; column += group.lanes) {
      float sum = 0.0f;
      for (uint32_t s = p.segments[k]; s < last; ++s) {
        const uint32_t source = p.sources[s];
        const bool is_a = source < p.a_capacity;
        if (!is_a && source - p.a_capacity >= p.b_capacity) continue;
        const uint64_t start = is_a ? p.a_starts[source] : p.b_starts[source - p.a_capacity];
        const uint64_t available = is_a ? p.num_a_values : p.num_b_values;
        if (start > available || available - start < dim) continue;
        sum = __fadd_rn(sum, (is_a ? p.a_values : p.b_values)[start + column]);
      }
      p.out_values[to + column] = sum;
    }
  });
}

// Makes an optimizer step on rows of a sorted batch. `for_rows(group, is_wide, target, work)` calls
// `work` for the rows, as `for_each_row` does.
template <typename E, typename ForRows>
__device__ __forceinline__ void update(const SparseUpdateUpdate<E>& p, ForRows for_rows) {
  if (is_shut(p.control)) return;
  const Target<E> target = {p.source.tables, p.target, p.step, p.control.values};
  const Group group = group_of_thread(p.lanes);
  const auto step = [&](auto width, uint32_t widest, const Row& row, const RowState& state,
                        auto gradient) {
    step_row<decltype(width)::kElements>(target, group, widest, row, state, gradient);
  };
  for_rows(group, p.source.is_wide && p.target.is_wide, target, step);
}

// Makes an optimizer step on the rows of a sparse gradient.
template <typename E>
__device__ __forceinline__ void apply(const SparseUpdateApply<E>& p) {
  // Local copies take fewer registers than the parameters themselves.
  const OptimizerTarget<E> to = p.target;
  const OptimizerStep step = p.step;
  const Target<E> target = {p.tables, to, step, nullptr};
  const Group group = group_of_thread(p.lanes);
  // The count is rounded up to whole warps, so that warps stay converged; groups behind the last
  // row have none.
  const uint32_t count = min(*p.counts, p.capacity), groups = 32 / p.lanes;
  for_each((uint64_t(count) + groups - 1) / groups * groups, p.lanes, [&](uint64_t k) {
    Row row = k < count ? row_at(p.tables, p.num_tables, p.rows, uint32_t(k)) : Row{};
    const uint64_t start = k < count ? p.starts[k] : 0;
    if (start > p.num_values || p.num_values - start < row.dim) row = {};
    const RowState state = row.exists() ? target.state(row) : RowState{};
    // All lanes must have read the row's state before one of them writes it.
    __syncwarp();
    const bool can_be_wide = !row.exists() || (row.is_wide && target.is_wide(row));
    by_width(p.target.is_wide && can_be_wide, [&](auto width) {
      constexpr int N = decltype(width)::kElements;
      const auto gradient = [&](uint32_t column, bool active) {
        return active ? load_any<N>(p.values + start + column) : Vec<float, N>{};
      };
      step_row<N>(target, group, __reduce_max_sync(kWarp, row.dim), row, state, gradient);
    });
  });
}

// 24 warps per multiprocessor leave a thread at most 80 registers. It spills none, and more warps
// hide more of the latency of its loads.
#define BOUNDS_OF_rows __launch_bounds__(kThreads, 3)
#define BOUNDS_OF_chunks __launch_bounds__(kChunkThreads, 6)

#define INSTANTIATE_REDUCE(PART)                                                     \
  extern "C" __global__ void BOUNDS_OF_##PART sparse_update_reduce_##PART(           \
      const __grid_constant__ SparseUpdateReduce p) {                                \
    reduce(p, [&](const Group& group, bool is_wide, const auto& target, auto work) { \
      for_##PART(p.source, group, is_wide, target, work);                            \
    });                                                                              \
  }
INSTANTIATE_REDUCE(rows)
INSTANTIATE_REDUCE(chunks)

#define INSTANTIATE_UPDATE(PART, E)                                                  \
  extern "C" __global__ void BOUNDS_OF_##PART sparse_update_update_##PART##_##E(     \
      const __grid_constant__ SparseUpdateUpdate<E> p) {                             \
    update(p, [&](const Group& group, bool is_wide, const auto& target, auto work) { \
      for_##PART(p.source, group, is_wide, target, work);                            \
    });                                                                              \
  }

#define INSTANTIATE(E)                                                          \
  INSTANTIATE_UPDATE(rows, E)                                                   \
  INSTANTIATE_UPDATE(chunks, E)                                                 \
  extern "C" __global__ void __launch_bounds__(kThreads, 2)                     \
      sparse_update_apply_##E(const __grid_constant__ SparseUpdateApply<E> p) { \
    apply(p);                                                                   \
  }
INSTANTIATE(f32)
INSTANTIATE(f16)
INSTANTIATE(bf16)
