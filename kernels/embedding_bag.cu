// embedding_bag.cu: pooled lookup of bags of ids in a batch of tables, and the gradient of the
// per-sample weights.
//
// Computes     out[b, columns of f] = sum, mean or max over the rows that bag (f, b) names; see the
//              Rust side for the maths
// Rust         src/ops/embedding_bag.rs, src/backend/cuda/embedding_bag.rs
// Entries      embedding_bag_{forward,weight_grad}_{f32,f16,bf16}_{i32,i64}
// Algorithm    1. A group of lanes pools a run of neighbouring bags. The group has as many lanes as
//                 a row has vectors of 16 bytes, rounded up to a power of two, at most a warp:
//                 small rows share a warp, large ones take several passes of 32 vectors.
//              2. The ids of a run are contiguous, so the group sees one stream of rows. Each lane
//                 loads one id, coalesced, checks it, and warp shuffles broadcast the rows. The
//                 groups of a warp stay converged for that. Ids are checked where they are used,
//                 since a pass of its own would read them twice.
//              3. The group fetches kDepth rows ahead into shared memory, in a cp.async pipeline
//                 that crosses the bounds of bags. Short bags are limited by the chain of loads
//                 from offsets to ids to rows; with several chains in flight, memory stays busy.
//                 The rows in flight take no registers, which leaves them for occupancy.
//              4. Each lane fetches and reads its own columns of a row, so that no barrier is
//                 needed.
//              5. Every column is summed in the order of the ids, which makes results equal to the
//                 CPU's to the bit. Splitting a bag over groups would be faster for a few huge
//                 bags, but the order would depend on the shape of the launch.
//              6. The gradient of the weights distributes bags in the same way, in runs of one bag:
//                 each dot product is a reduction by warp shuffles over the columns.
//              7. The type of `out` and of its gradient is a parameter: a branch per bag costs
//                 nothing beside its rows, and instances for each type would be three times as
//                 many.
// Mapping      blockIdx.y -> feature, in a loop; below, groups of 4 lanes and runs of 2 bags:
//                group of the grid    0      1      2     ...
//                bags of the feature  0 1    2 3    4 5   ...
//                ids of a run         i i i i | i i i     lane k reads ids k, k + 4, ..
//                row of an id         [16 B | 16 B | 16 B | 16 B]   fetched into a ring
//                                     lane 0      1      2      3     of kDepth slots per lane
// Launch       grid (blocks for the bags of a feature, num_features), block 256; features with
//              small rows need fewer blocks, and the surplus ones return at once
// Bytes        ids and offsets read once, a row for each id that names it, out written once: as
//              bytes_moved(); the least traffic reads each distinct row once
// Requires     vectorised loads of 16 bytes where rows and table begin at multiples of 16 bytes,
//              else one element at a time; any dimension from 1
// Numerics     f32 accumulation, product and sum rounded separately (no fma), in the order of the
//              ids, and one more rounding, to nearest, where `out` has 16 bits: the same bits for
//              any launch, and on the CPU
// Measured     NVIDIA H200, 2026-11-27, f32, uniform ids: D 64 B 2048, one id a bag 10.6 us, 20 ids
//              83.7 us; D 128 B 65536, one id 440 us. Not yet measured: the share of stream (copy,
//              or read from 20 ids on), max pooling, outputs of 16 bits, FBGEMM's shape

#include "common/bags.cuh"
#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"
#include "params/embedding_bag.cuh"

constexpr int kDepth = 4;  // The number of rows in a group's pipeline.
constexpr uint32_t kNoSource = 0xffffffffu;

// Returns the number of lanes in a group for the rows of a feature: a power of two, at most a warp.
// Each lane takes `width` elements at once.
__device__ __forceinline__ int lanes_of(const Feature& feature, int width) {
  const uint32_t steps = (feature.embedding_dim + width - 1) / width;
  return steps >= 32 ? 32 : steps <= 1 ? 1 : 1 << (32 - __clz(steps - 1));
}

// Returns true if all rows of a table of `dim` columns can be loaded 16 bytes at a time.
template <typename E>
__device__ __forceinline__ bool has_wide_rows(const E* weights, const TableRows& rows,
                                              uint32_t dim) {
  return dim % kWidest<E> == 0 && rows.stride % kWidest<E> == 0 &&
         is_aligned(weights + rows.start, 16);
}

// A run of neighbouring bags of a feature, whose ids are contiguous, as seen by a lane of its
// group.
struct Run {
  const Feature* feature;
  uint64_t start;   // The index of the table's first weight.
  uint32_t stride;  // The distance between its rows.
  // The dimension and the pooling of the feature. The compiler would reload them through the
  // pointer after every store.
  uint32_t dim;
  uint32_t pooling;
  uint32_t first;   // The first sample.
  uint32_t begin;   // The position of the first id.
  uint32_t my_end;  // The position behind the last id of the bag with the lane's number.
  int bags;
  int lane;   // The number of the lane in the group.
  int lanes;  // The number of lanes in the group.
};

// Calls `work(width, run)` for this group's run of every feature, with at most `run_bags` bags, and
// records the faults of ids and offsets. `width` is the number of elements of a lane's vectorised
// load. `work` returns true if an id of this lane names no row. The groups of a warp stay
// converged, also those without bags: shuffles with a partial mask cost several times as much as
// those of whole warps.
template <typename E, typename Args, typename Work>
__device__ __forceinline__ void for_each_run(const Args& p, uint32_t run_bags, Work work) {
#pragma unroll 1
  for (uint32_t f = blockIdx.y; f < p.num_features; f += gridDim.y) {
    Run run;
    run.feature = p.features + f;
    run.dim = run.feature->embedding_dim;
    run.pooling = run.feature->pooling;
    const TableRows rows = p.rows[f];
    run.start = rows.start;
    run.stride = rows.stride;
    const bool wide = has_wide_rows(p.weights, rows, run.dim);
    run.lanes = lanes_of(*run.feature, wide ? kWidest<E> : 1);
    run.lane = threadIdx.x % run.lanes;
    const int bags = min(int(run_bags), run.lanes);
    const uint64_t first = (uint64_t(blockIdx.x) * kThreads + threadIdx.x) / run.lanes * bags;
    if (__all_sync(kWarp, first >= p.batch_size)) continue;
    run.first = uint32_t(first);
    run.bags = first < p.batch_size ? int(min(uint32_t(bags), p.batch_size - run.first)) : 0;
    const uint64_t number = uint64_t(f) * p.batch_size + run.first;
    const Bounds mine =
        run.bags > 0 ? bounds_of(p.bags, number + min(run.lane, run.bags - 1)) : Bounds{};
    run.begin = __shfl_sync(kWarp, uint32_t(mine.start), 0, run.lanes);
    run.my_end = uint32_t(mine.end);
    const bool my_bad_id = wide ? work(Width<kWidest<E>>{}, run) : work(Width<1>{}, run);
    const bool bad_id = group_any(my_bad_id, run.lanes);
    const uint64_t my_number = number + run.lane;
    if (run.lane < run.bags && (bad_id || has_bad_bounds(p.bags, my_number)))
      note_faults(*run.feature, p.indices, p.bags, my_number, p.status);
  }
}

// The pooled vector of a bag so far, in the columns of a lane.
template <int N>
struct Pooled {
  float value[N];
  uint32_t source[N];  // The position in the bag of each maximum.
  uint32_t counted;

  __device__ __forceinline__ void clear() {
    counted = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) value[j] = 0.0f, source[j] = kNoSource;
  }

  // Adds a row, or takes its maxima. `within()` returns the row's position in the bag.
  template <typename E, typename Within>
  __device__ __forceinline__ void take(const Vec<E, N>& row, float weight, bool is_max,
                                       Within within) {
    const uint32_t position = is_max ? within() : 0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float x = to_f32(row.at[j]);
      if (!is_max) {
        // A product with 1 is exact, so that weighted and plain sums share this code.
        value[j] = __fadd_rn(value[j], __fmul_rn(weight, x));
      } else if (counted == 0 || x > value[j] || (isnan(x) && !isnan(value[j]))) {
        value[j] = x;
        source[j] = position;
      }
    }
    ++counted;
  }
};

// The shared memory of a block. It is declared in a function that is no template, so that all
// widths share one copy.
struct Staged {
  // A ring buffer of rows in flight. Each lane reads only what it fetched, so that no lane waits
  // for another.
  uint4 ring[kDepth][kThreads];
  float weights[kDepth][kThreads];
  uint32_t ends[kThreads];  // The end of each bag, counted from the first id of its run.
};

__device__ __forceinline__ Staged& staged_of_block() {
  __shared__ Staged staged;
  return staged;
}

// Pools N columns per lane of a run, from `column` on. Lanes beyond the last column only take part
// in the shuffles. `bad` is set if an id of this lane names no row.
template <int N, typename E, typename I>
__device__ __forceinline__ void pool_columns(const EmbeddingBagForward<E, I>& p, const Run& run,
                                             uint32_t column, bool& bad) {
  Staged& staged = staged_of_block();
  const Feature* feature = run.feature;
  const bool active = column < run.dim, is_max = run.pooling == kMax;
  const E* table = p.weights + run.start + column;
  __syncwarp();
  staged.ends[threadIdx.x] = max(run.my_end, run.begin) - run.begin;
  __syncwarp();
  const auto end_of = [&](int bag) { return staged.ends[threadIdx.x - run.lane + bag]; };
  const uint32_t count = run.bags > 0 ? end_of(run.bags - 1) : 0,
                 longest = __reduce_max_sync(kWarp, count);

  // A round loads one id per lane. `my_row` and `my_weight` belong to this lane's id of the current
  // round, `next` is its id of the next round. Bit s of `is_row` is set if slot s of the ring holds
  // a row.
  uint32_t is_row = 0;
  int64_t my_row = kNoRow;
  float my_weight = 1.0f;
  const auto id_at = [&](uint32_t k) { return k < count ? p.indices[run.begin + k] : I(0); };
  I next = id_at(run.lane);
  const auto fetch = [&](uint32_t ahead) {
    const uint32_t place = ahead % uint32_t(run.lanes), slot = ahead % kDepth;
    if (place == 0) {
      const uint32_t mine = ahead + run.lane;
      my_row = mine < count ? row_of(next, *feature, bad) : kNoRow;
      if (p.per_sample_weights && mine < count) my_weight = p.per_sample_weights[run.begin + mine];
      next = id_at(mine + run.lanes);
    }
    const int64_t row = __shfl_sync(kWarp, my_row, place, run.lanes);
    if (p.per_sample_weights)
      staged.weights[slot][threadIdx.x] = __shfl_sync(kWarp, my_weight, place, run.lanes);
    is_row = (is_row & ~(1u << slot)) | uint32_t(row != kNoRow) << slot;
    if (row != kNoRow && active) {
      fetch_async<N>(reinterpret_cast<E*>(&staged.ring[slot][threadIdx.x]),
                     table + uint64_t(row) * run.stride);
    }
    commit_copies();
  };

  Pooled<N> pooled;
  pooled.clear();
  int bag = 0;
  uint32_t end = end_of(0);
  const auto finish_bag = [&](auto is_mean) {
    if (decltype(is_mean)::value && pooled.counted > 1) {
#pragma unroll
      for (int j = 0; j < N; ++j)
        pooled.value[j] = __fdiv_rn(pooled.value[j], float(pooled.counted));
    }
    if (active) {
      store_as(p.output_type, p.output,
               uint64_t(run.first + bag) * p.output_ld + feature->column + column, pooled.value);
      if (is_max && p.argmax) {
        uint32_t* argmax =
            p.argmax + uint64_t(run.first + bag) * p.argmax_ld + feature->column + column;
#pragma unroll
        for (int j = 0; j < N; ++j) argmax[j] = pooled.source[j];
      }
    }
    pooled.clear();
    if (++bag < run.bags) end = end_of(bag);
  };

  // There are two loops instead of one with a test inside, which needs more
  // registers than are left.
  const auto finish_bags_while = [&](auto condition) {
    if (run.pooling == kMean) {
      while (condition()) finish_bag(Bool<true>{});
    } else {
      while (condition()) finish_bag(Bool<false>{});
    }
  };

#pragma unroll 1
  for (uint32_t k = 0; k + 1 < kDepth; ++k) fetch(k);
#pragma unroll 1
  for (uint32_t k = 0; k < longest; ++k) {
    fetch(k + kDepth - 1);
    wait_for_copies<kDepth - 1>();
    if (k >= count) continue;
    // The last bag ends at `count`, so this loop ends whatever the offsets hold.
    finish_bags_while([&] { return k >= end; });
    const uint32_t slot = k % kDepth;
    if (!active || (is_row >> slot & 1) == 0) continue;
    const float weight = p.per_sample_weights ? staged.weights[slot][threadIdx.x] : 1.0f;
    pooled.take(load<N>(reinterpret_cast<const E*>(&staged.ring[slot][threadIdx.x])), weight,
                is_max, [&] { return bag > 0 ? k - end_of(bag - 1) : k; });
  }
  finish_bags_while([&] { return bag < run.bags; });
}

// Pools a run in passes over its columns. Returns true if an id of this lane names no row.
template <int N, typename E, typename I>
__device__ __forceinline__ bool pool(const EmbeddingBagForward<E, I>& p, const Run& run, Width<N>) {
  bool bad = false;
#pragma unroll 1
  for (uint32_t start = 0; start < run.dim; start += run.lanes * N) {
    pool_columns<N>(p, run, start + run.lane * N, bad);
  }
  return bad;
}

// Computes the gradients of the per-sample weights of a run, which is a single bag: the dot product
// of each row with the gradient of the pooled vector. Returns true if an id of this lane names no
// row.
template <int N, typename E, typename I>
__device__ __forceinline__ bool weight_grads(const EmbeddingBagWeightGrad<E, I>& p, const Run& run,
                                             Width<N>) {
  const Feature* feature = run.feature;
  const uint32_t count = run.bags > 0 ? run.my_end - run.begin : 0,
                 longest = __reduce_max_sync(kWarp, count);
  bool bad = false;
  float divisor = 1.0f;
  if (run.pooling == kMean) {
    float counted = 0.0f;
    for (uint32_t k = run.lane; k < count; k += run.lanes) {
      counted += row_of(p.indices[run.begin + k], *feature, bad) == kNoRow ? 0.0f : 1.0f;
    }
    divisor = fmaxf(group_sum(counted, run.lanes), 1.0f);
  }
  const uint64_t first_grad = run.first * p.grad_output_ld + feature->column;
#pragma unroll 1
  for (uint32_t first = 0; first < longest; first += run.lanes) {
    const uint32_t mine = first + run.lane;
    const int64_t my_row =
        mine < count ? row_of(p.indices[run.begin + mine], *feature, bad) : kNoRow;
    const int ids = int(min(uint32_t(run.lanes), longest - first));
    float my_sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k < ids; ++k) {
      const int64_t row = __shfl_sync(kWarp, my_row, k, run.lanes);
      const E* from = p.weights + run.start + uint64_t(row) * run.stride;
      float sum = 0.0f;
      for (uint32_t column = run.lane * N; row != kNoRow && column < run.dim;
           column += run.lanes * N) {
        const Vec<E, N> loaded = load<N>(from + column);
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const void* grad = address_of(p.grad_output_type, p.grad_output, first_grad + column + j);
          sum += to_f32(loaded.at[j]) * load_as_f32<1>(p.grad_output_type, grad).at[0];
        }
      }
      sum = group_sum(sum, run.lanes);
      if (run.lane == k) my_sum = sum;
    }
    // Each lane holds the sum of its own id, so that the store is coalesced.
    if (mine < count) p.grad_weights[run.begin + mine] = my_sum / divisor;
  }
  return bad;
}

#define INSTANTIATE(E, I)                                                                        \
  extern "C" __global__ void __launch_bounds__(kThreads, 4)                                      \
      embedding_bag_forward_##E##_##I(const __grid_constant__ EmbeddingBagForward<E, I> p) {     \
    for_each_run<E>(p, p.run_bags,                                                               \
                    [&](auto width, const Run& run) { return pool(p, run, width); });            \
  }                                                                                              \
  extern "C" __global__ void __launch_bounds__(kThreads, 4) embedding_bag_weight_grad_##E##_##I( \
      const __grid_constant__ EmbeddingBagWeightGrad<E, I> p) {                                  \
    for_each_run<E>(p, 1,                                                                        \
                    [&](auto width, const Run& run) { return weight_grads(p, run, width); });    \
  }
FOR_EACH_ELEMENT_AND_INDEX(INSTANTIATE)
