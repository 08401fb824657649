// pooled_interaction.cu: lookup, pooling and pairwise dot products of a sample in one pass.
//
// Computes     as embedding_bag.cu, sum or mean, and then as interaction_mma.cu
// Rust         src/ops/pooled_interaction.rs, src/backend/cuda/pooled_interaction.rs
// Entries      pooled_interaction_forward_{f32_f32,f32_f16,f32_bf16,f16_f16,bf16_bf16}_{i32,i64}:
//              rows of tables, features, ids
// Algorithm    1. A team, a warp or a block, works on one sample, in the shared memory of
//                 interaction_mma.cu. The dense vector comes with cp.async. The rows of the tables
//                 are pooled in registers, and each pooled vector goes straight to its row of the
//                 shared memory, from where the tensor cores read it. So pooled vectors cross
//                 global memory only if a gradient needs them, and then are written and not read.
//              2. The chain of loads from offsets to ids to rows limits a sample. Lane l of a warp
//                 looks up the bag of the warp's feature l and its first row, so that the chains of
//                 all features overlap. Warp shuffles give these rows to the groups of lanes that
//                 load them, kAtOnce rows in flight each.
//              3. If a bag has more than one id, a group takes one bag after the other, kAtOnce of
//                 its ids at a time, which all lanes read. There is no shuffle in that loop, so
//                 that bags may have any lengths.
//              4. Sums have the order and the roundings of embedding_bag.cu, dot products those of
//                 interaction_mma.cu: the same bits as from both ops.
// Mapping      a sample with a team of 4 warps (of one: w is 0, and 4 is 1), groups of 16 lanes:
//                look-up    warp w, lane l -> feature 1 + w + 4 l
//                rows       lanes 0 .. 15  -> look-ups 0, 2, 4, 6 of the warp, 16 bytes a lane
//                           lanes 16 .. 31 -> look-ups 1, 3, 5, 7
//                pairs      as in interaction_mma.cu
// Launch       grid (ceil(batch_size / teams per block)), block 32 to 128, dynamic shared memory
//              for the samples of a block
// Bytes        ids, offsets and dense vectors read once, a row for each id that names it, output
//              written once, and the pooled vectors if they are kept
// Requires     rows of tables that begin and end at multiples of 16 bytes; all of the same
//              dimension; no max pooling
// Numerics     those of both ops
// Measured     compiled and emulated, not yet measured. Predicted for an H200 (4.2 TB/s), F 27 D
//              128 B 65536, f32 rows with one id a bag, bf16: 872 MB of rows, 27 of ids and
//              offsets, 17 of dense vectors and 63 of output are 233 us; both ops are predicted to
//              take 280 and 172 us

#include "common/bags.cuh"
#include "common/mma_pairs.cuh"
#include "common/reduce.cuh"
#include "params/pooled_interaction.cuh"

// The number of rows that a group of lanes has in flight.
constexpr uint32_t kAtOnce = 4;
constexpr uint32_t kNoFeature = 0xffffffffu;

extern __shared__ uint4 shared_memory[];

// A bag and its first row, as one lane has looked them up.
struct Lookup {
  uint64_t row;    // The index of the first row's first weight, or kNone.
  uint32_t start;  // The position of the first id.
  uint32_t count;  // The number of ids.

  // Returns the look-up of another lane.
  __device__ __forceinline__ Lookup of_lane(uint32_t lane) const {
    return {__shfl_sync(kWarp, row, lane), __shfl_sync(kWarp, start, lane),
            __shfl_sync(kWarp, count, lane)};
  }
};

constexpr uint64_t kNone = ~uint64_t(0);

// Looks up the bag of a feature. Sets `bad` if its bounds are wrong or its first id names no row.
template <typename E, typename O, typename I>
__device__ __forceinline__ Lookup look_up(const PooledInteractionForward<E, O, I>& p, uint32_t f,
                                          uint64_t sample, bool& bad) {
  const uint64_t bag = uint64_t(f) * p.batch_size + sample;
  const Bounds bounds = bounds_of(p.bags, bag);
  const TableRows rows = p.rows[f];
  bad = has_bad_bounds(p.bags, bag);
  const int64_t row =
      bounds.start < bounds.end ? row_of(p.indices[bounds.start], p.features[f], bad) : kNoRow;
  return {row == kNoRow ? kNone : rows.start + uint64_t(row) * rows.stride, uint32_t(bounds.start),
          uint32_t(bounds.end - bounds.start)};
}

// Adds `weight` times a row to a sum. A product with 1 is exact, so that weighted and plain sums
// share this code.
template <int N, typename E>
__device__ __forceinline__ void add_row(float (&sum)[N], const Vec<E, N>& row, float weight) {
#pragma unroll
  for (int j = 0; j < N; ++j) sum[j] = __fadd_rn(sum[j], __fmul_rn(weight, to_f32(row.at[j])));
}

// Pools bags into the rows of a sample in shared memory behind the first one. A lane has N columns
// of a bag.
template <typename E, typename O, typename I>
struct Pool {
  static constexpr int N = kWidest<E>;
  const PooledInteractionForward<E, O, I>& p;
  uint64_t sample;
  O* rows;
  uint32_t pitch;

  // Stores the pooled vector of feature `f` from `column` on.
  __device__ __forceinline__ void store(uint32_t f, uint32_t column, const float (&sum)[N]) const {
    Vec<O, N> rounded;
#pragma unroll
    for (int c = 0; c < N; ++c) rounded.at[c] = from_f32<O>(sum[c]);
    *reinterpret_cast<Vec<O, N>*>(rows + (f + 1) * pitch + column) = rounded;
    if (p.pooled) store_any(p.pooled + sample * p.pooled_ld + f * p.matrices.dim + column, sum);
  }

  // Pools kAtOnce bags of at most one id each. Bag j is that of feature `feature(j)`, which may be
  // kNoFeature, and has been looked up by lane `lane(j)`.
  template <typename Lane, typename OfLane>
  __device__ __forceinline__ void single_rows(const Lookup& my, uint32_t column, Lane lane,
                                              OfLane feature) const {
    const bool active = column < p.matrices.dim;
    Vec<E, N> loaded[kAtOnce];
    float weight[kAtOnce];
    bool is_row[kAtOnce];
#pragma unroll
    for (uint32_t j = 0; j < kAtOnce; ++j) {
      const uint64_t row = __shfl_sync(kWarp, my.row, lane(j));
      const uint32_t start = __shfl_sync(kWarp, my.start, lane(j));
      is_row[j] = row != kNone && active;
      if (!is_row[j]) continue;
      weight[j] = p.per_sample_weights ? p.per_sample_weights[start] : 1.0f;
      loaded[j] = load<N>(p.weights + row + column);
    }
#pragma unroll
    for (uint32_t j = 0; j < kAtOnce; ++j) {
      float sum[N] = {};
      if (is_row[j]) add_row(sum, loaded[j], weight[j]);
      if (active && feature(j) != kNoFeature) store(feature(j), column, sum);
    }
  }

  // Pools a bag of any length. Returns true if one of its ids names no row.
  __device__ __forceinline__ bool rows_of_bag(const Lookup& bag, uint32_t f,
                                              uint32_t column) const {
    // A reference would be read again for each id.
    const Feature feature = p.features[f];
    const TableRows table = p.rows[f];
    const E* from = p.weights + table.start + column;
    const bool active = column < p.matrices.dim;
    float sum[N] = {};
    uint32_t counted = 0;
    bool bad = false;
#pragma unroll 1
    for (uint32_t k = 0; k < bag.count; k += kAtOnce) {
      Vec<E, N> loaded[kAtOnce];
      float weight[kAtOnce];
      bool is_row[kAtOnce];
#pragma unroll
      for (uint32_t j = 0; j < kAtOnce; ++j) {
        is_row[j] = false;
        if (k + j >= bag.count) continue;
        const uint64_t position = uint64_t(bag.start) + k + j;
        const int64_t row = row_of(p.indices[position], feature, bad);
        is_row[j] = row != kNoRow;
        if (!is_row[j]) continue;
        ++counted;
        weight[j] = p.per_sample_weights ? p.per_sample_weights[position] : 1.0f;
        if (active) loaded[j] = load<N>(from + uint64_t(row) * table.stride);
      }
#pragma unroll
      for (uint32_t j = 0; j < kAtOnce; ++j) {
        if (is_row[j] && active) add_row(sum, loaded[j], weight[j]);
      }
      // Leaves before `k` overflows 32 bits.
      if (bag.count - k <= kAtOnce) break;
    }
    if (counted > 1 && feature.pooling == kMean) {
#pragma unroll
      for (int c = 0; c < N; ++c) sum[c] = __fdiv_rn(sum[c], float(counted));
    }
    if (active) store(f, column, sum);
    return bad;
  }
};

// Pools the bags of a sample into the rows of shared memory behind the first one.
template <typename E, typename O, typename I>
__device__ __forceinline__ void pool(const PooledInteractionForward<E, O, I>& p, const Team& team,
                                     uint64_t sample, O* rows, uint32_t pitch) {
  const Pool<E, O, I> pool = {p, sample, rows, pitch};
  constexpr int N = kWidest<E>;
  const uint32_t bags = p.matrices.num_features - 1, dim = p.matrices.dim;
  const uint32_t warp = team.thread / 32, warps = team.threads / 32, lane = threadIdx.x % 32;
  const uint32_t groups = 32 / p.lanes, group = lane / p.lanes, in_group = lane % p.lanes;
#pragma unroll 1
  for (uint32_t first = warp; first < bags; first += 32 * warps) {
    // Lane l looks up the bag of feature `first + l * warps`.
    const uint32_t mine = first + lane * warps;
    bool bad = false;
    const Lookup my = mine < bags ? look_up(p, mine, sample, bad) : Lookup{kNone, 0, 0};
    const uint32_t looked_up = min(32u, (bags - first + warps - 1) / warps);
    const bool are_single = __all_sync(kWarp, my.count <= 1);
    const uint32_t step = are_single ? groups * kAtOnce : groups;
    // The set of lanes whose bags have an id that names no row behind their first one.
    uint32_t found = 0;
    // All groups of a warp take these loops together.
#pragma unroll 1
    for (uint32_t k = group; k < looked_up + group; k += step) {
#pragma unroll 1
      for (uint32_t column = in_group * N; column < dim + in_group * N; column += p.lanes * N) {
        if (are_single) {
          pool.single_rows(
              my, column, [&](uint32_t j) { return (k + j * groups) % 32; },
              [&](uint32_t j) {
                return k + j * groups < looked_up ? first + (k + j * groups) * warps : kNoFeature;
              });
        } else {
          const Lookup bag = my.of_lane(k % 32);
          if (k < looked_up && pool.rows_of_bag(bag, first + k * warps, column)) found |= 1u << k;
        }
      }
    }
    bad |= __reduce_or_sync(kWarp, found) >> lane & 1;
    if (bad) {
      note_faults(p.features[mine], p.indices, p.bags, uint64_t(mine) * p.batch_size + sample,
                  p.status);
    }
  }
}

template <typename E, typename O, typename I>
__device__ __forceinline__ void forward(const PooledInteractionForward<E, O, I>& p) {
  const InteractionForwardMatrices<O>& m = p.matrices;
  const Columns<uint32_t> columns = columns_of<uint32_t>(m);
  const Team team(p.team_threads);
  const uint64_t sample = uint64_t(blockIdx.x) * (blockDim.x / p.team_threads) + team.number;
  if (sample >= p.batch_size) return;
  const uint32_t features = m.num_features, dim = m.dim, width = uint32_t(m.width);
  const SampleRoom<O> room(features, dim, width);
  O* rows = reinterpret_cast<O*>(shared_memory) + team.number * room.all;
  O* output = m.output + sample * m.output_ld;
  O* row = place_beside(rows + room.rows, output);
  const O* dense = m.head + sample * m.head_ld;
  const bool is_wide = dim % kWidest<O> == 0 && is_aligned(dense, 16);
  stage_rows(team, rows, room.pitch, 1, dim, dim, is_wide, [&](uint32_t) { return dense; });
  pad_rows(team, rows, room.pitch, features, dim, room.whole);
  pool(p, team, sample, rows, room.pitch);
  wait_for_copies();
  team.wait();
  multiply_pairs(team, rows, room.pitch, columns, row + columns.pairs_begin());
  fill_row(team, row, columns, width, rows, room.pitch);
  team.wait();
  store_row(team, output, row, width);
}

// Five blocks of four samples leave a thread 102 registers; without that bound the compiler spills
// some. Rows of 16 bits, of which a lane has eight columns, need more.
#define INSTANTIATE(E, O, I)                                                     \
  extern "C" __global__ void __launch_bounds__(kThreads, sizeof(E) == 4 ? 5 : 4) \
      pooled_interaction_forward_##E##_##O##_##I(                                \
          const __grid_constant__ PooledInteractionForward<E, O, I> p) {         \
    forward(p);                                                                  \
  }
#define INSTANTIATE_IDS(E, O) \
  INSTANTIATE(E, O, i32)      \
  INSTANTIATE(E, O, i64)
INSTANTIATE_IDS(f32, f32)
INSTANTIATE_IDS(f32, f16)
INSTANTIATE_IDS(f32, bf16)
INSTANTIATE_IDS(f16, f16)
INSTANTIATE_IDS(bf16, bf16)
