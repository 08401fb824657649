// embedding_bag.cu: pooled lookup of bags of ids in a batch of tables, and the gradient of the per-sample weights.
//
// Computes     out[b, columns of f] = sum, mean or max over the rows that bag (f, b) names; see the Rust side for the maths
// Rust         src/ops/embedding_bag.rs, src/backend/cuda/embedding_bag.rs
// Entries      embedding_bag_{forward,weight_grad}_{f32,f16,bf16}_{i32,i64}
// Algorithm    A group of lanes per bag, a power of two of them, as many as the row has runs of 16 bytes, at most a warp: small rows share
//              a warp, large ones are walked in passes of 32 runs. The lanes read the ids of a bag side by side, one each, check them, and hand
//              them round by shuffles. Rows are taken in the order of the ids, kInFlight at a time: all of their loads are issued before the
//              first is added, so that several misses overlap, yet every column is summed in order, which makes results equal to the CPU's
//              to the bit. Splitting a bag over groups would be faster for a few huge bags, but change that order with the shape of the
//              launch. Ids are checked where they are used: a pass of its own would read them twice.
// Launch       grid (ceil(batch_size / bags per block), num_features), block 256; features with small rows leave blocks over, which return
// Bytes        ids, offsets and rows read once, out written once: as bytes_moved()
// Requires     16-byte loads where rows and table begin at multiples of 16 bytes, else one element at a time; any dimension from 1
// Numerics     f32 accumulation, product and sum rounded separately (no fma), in the order of the ids: the same bits for any launch, and on the CPU
// Measured     compiled and emulated, not yet measured

#include "common/bags.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"

constexpr int kThreads = 256;
constexpr int kInFlight = 4;
constexpr uint32_t kNoSource = 0xffffffffu;

// A bag, as the lanes of its group see it.
struct Bag {
  Feature feature;   // copied: through a pointer it would be read again after every store
  uint64_t number;   // key-major
  uint64_t sample;
  int lane;          // of the group
  int lanes;         // in the group
  uint32_t mask;     // of the warp
  bool exists;
};

// The number of lanes for rows of `runs` runs of elements: a power of two, at most a warp.
__device__ __forceinline__ int lanes_for(uint32_t runs) { return runs >= 32 ? 32 : runs <= 1 ? 1 : 1 << (32 - __clz(runs - 1)); }

__device__ __forceinline__ Bag bag_of_thread(const Feature& feature, uint32_t f, uint32_t batch_size, int width) {
  const int lanes = lanes_for((feature.embedding_dim + width - 1) / width);
  const uint64_t thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x;
  const uint64_t sample = thread / lanes;
  return {feature, uint64_t(f) * batch_size + sample, sample, int(threadIdx.x % lanes), lanes, group_mask(lanes), sample < batch_size};
}

// Whether all rows of a feature's table begin at a multiple of 16 bytes.
template <typename E>
__device__ __forceinline__ bool has_wide_rows(const E* weights, const Feature& feature) {
  return feature.embedding_dim % kWidest<E> == 0 && is_aligned(weights + feature.weight_offset, 16);
}

// A number of elements that a lane takes at once, as a type.
template <int N>
struct Width {};

// Calls `work(width, bag)` for every bag of this group, and notes what is wrong with its ids and bounds; `work` tells whether an id of this lane
// names no row.
template <typename E, typename Args, typename Work>
__device__ __forceinline__ void for_each_bag(const Args& args, Work work) {
  const uint64_t num_bags = uint64_t(args.num_features) * args.batch_size;
#pragma unroll 1
  for (uint32_t f = blockIdx.y; f < args.num_features; f += gridDim.y) {
    const Feature feature = args.features[f];
    const bool wide = has_wide_rows(args.weights, feature);
    const Bag bag = bag_of_thread(feature, f, args.batch_size, wide ? kWidest<E> : 1);
    if (!bag.exists) continue;
    const bool my_bad = wide ? work(Width<kWidest<E>>{}, bag) : work(Width<1>{}, bag);
    const bool bad = __any_sync(bag.mask, my_bad);
    if (bag.lane == 0 && (bad || has_bad_bounds(args.offsets, bag.number, num_bags, args.num_indices))) {
      note_faults(bag.feature, args.indices, args.offsets, bag.number, num_bags, args.num_indices, args.status);
    }
  }
}

template <typename E, typename I>
struct ForwardArgs {
  const Feature* features;
  const E* weights;
  const I* indices;
  const I* offsets;
  const float* per_sample_weights;  // null for none
  float* output;
  uint32_t* argmax;                 // null for none
  Status* status;
  uint64_t output_ld;
  uint64_t argmax_ld;
  uint64_t num_indices;
  uint32_t num_features;
  uint32_t batch_size;
};

// Takes in a row of a bag for the columns of this lane; `within` is its position in the bag.
template <bool kIsMax, int N, typename E>
__device__ __forceinline__ void take(const Vec<E, N>& row, float weight, uint32_t within, uint32_t counted, float (&pooled)[N],
                                     uint32_t (&source)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float x = to_f32(row.at[j]);
    if (!kIsMax) {
      // Multiplying by 1 changes nothing, so that weighted and plain sums need not be told apart.
      pooled[j] = __fadd_rn(pooled[j], __fmul_rn(weight, x));
    } else if (counted == 0 || x > pooled[j] || (isnan(x) && !isnan(pooled[j]))) {
      pooled[j] = x;
      source[j] = within;
    }
  }
}

// Pools the columns from `column` on of a bag, N of them for this lane. Lanes beyond the row only keep the others company.
template <bool kIsMax, int N, typename E, typename I>
__device__ __forceinline__ void pool_columns(const ForwardArgs<E, I>& args, const Bag& bag, Bounds bounds, uint32_t column, bool& bad) {
  // Maxima need their sources in registers; there is room for fewer rows besides.
  constexpr int kRows = kIsMax ? 1 : kInFlight;
  const bool active = column < bag.feature.embedding_dim;
  const E* table = args.weights + bag.feature.weight_offset + column;
  float pooled[N] = {};
  uint32_t source[N];
#pragma unroll
  for (int j = 0; j < N; ++j) source[j] = kNoSource;
  uint32_t counted = 0;
#pragma unroll 1
  for (uint64_t first = bounds.start; first < bounds.end; first += bag.lanes) {
    // One id for each lane.
    const uint64_t mine = first + bag.lane;
    const int64_t my_row = mine < bounds.end ? row_of(args.indices[mine], bag.feature, bad) : kNoRow;
    const float my_weight = args.per_sample_weights && mine < bounds.end ? args.per_sample_weights[mine] : 1.0f;
    const int ids = int(min(uint64_t(bag.lanes), bounds.end - first));
#pragma unroll 1
    for (int start = 0; start < ids; start += kRows) {
      Vec<E, N> loaded[kRows];
      float weight[kRows];
      bool is_row[kRows];
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        // Beyond the last id this is the row of some lane, which is not used.
        const int64_t row = __shfl_sync(bag.mask, my_row, start + k, bag.lanes);
        weight[k] = __shfl_sync(bag.mask, my_weight, start + k, bag.lanes);
        is_row[k] = start + k < ids && row != kNoRow;
        if (is_row[k] && active) loaded[k] = load<N>(table + uint64_t(row) * bag.feature.embedding_dim);
      }
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        if (!is_row[k]) continue;
        if (active) take<kIsMax>(loaded[k], weight[k], uint32_t(first - bounds.start) + start + k, counted, pooled, source);
        ++counted;
      }
    }
  }
  if (!active) return;
  if (bag.feature.pooling == kMean && counted > 1) {
#pragma unroll
    for (int j = 0; j < N; ++j) pooled[j] = __fdiv_rn(pooled[j], float(counted));
  }
  store_any(args.output + bag.sample * args.output_ld + bag.feature.column + column, pooled);
  if (kIsMax && args.argmax) {
    uint32_t* argmax = args.argmax + bag.sample * args.argmax_ld + bag.feature.column + column;
#pragma unroll
    for (int j = 0; j < N; ++j) argmax[j] = source[j];
  }
}

// Pools a bag in passes over its columns; tells whether an id of this lane names no row.
template <int N, typename E, typename I>
__device__ __forceinline__ bool pool(const ForwardArgs<E, I>& args, const Bag& bag, Width<N>) {
  const Bounds bounds = bounds_of(args.offsets, bag.number, args.num_indices);
  bool bad = false;
#pragma unroll 1
  for (uint32_t start = 0; start < bag.feature.embedding_dim; start += bag.lanes * N) {
    if (bag.feature.pooling == kMax) {
      pool_columns<true, N>(args, bag, bounds, start + bag.lane * N, bad);
    } else {
      pool_columns<false, N>(args, bag, bounds, start + bag.lane * N, bad);
    }
  }
  return bad;
}

template <typename E, typename I>
struct WeightGradArgs {
  const Feature* features;
  const E* weights;
  const I* indices;
  const I* offsets;
  const float* grad_output;
  float* grad_weights;
  Status* status;
  uint64_t grad_output_ld;
  uint64_t num_indices;
  uint32_t num_features;
  uint32_t batch_size;
};

// The gradient of the weights of a bag's ids: the dot product of each row with the gradient of the pooled vector. Tells whether an id of
// this lane names no row.
template <int N, typename E, typename I>
__device__ __forceinline__ bool weight_grads(const WeightGradArgs<E, I>& args, const Bag& bag, Width<N>) {
  const Bounds bounds = bounds_of(args.offsets, bag.number, args.num_indices);
  bool bad = false;
  float divisor = 1.0f;
  if (bag.feature.pooling == kMean) {
    float counted = 0.0f;
    for (uint64_t position = bounds.start + bag.lane; position < bounds.end; position += bag.lanes) {
      counted += row_of(args.indices[position], bag.feature, bad) == kNoRow ? 0.0f : 1.0f;
    }
    divisor = fmaxf(group_sum(counted, bag.lanes, bag.mask), 1.0f);
  }
  const float* grad = args.grad_output + bag.sample * args.grad_output_ld + bag.feature.column;
#pragma unroll 1
  for (uint64_t first = bounds.start; first < bounds.end; first += bag.lanes) {
    const uint64_t mine = first + bag.lane;
    const int64_t my_row = mine < bounds.end ? row_of(args.indices[mine], bag.feature, bad) : kNoRow;
    const int ids = int(min(uint64_t(bag.lanes), bounds.end - first));
    float my_sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k < ids; ++k) {
      const int64_t row = __shfl_sync(bag.mask, my_row, k, bag.lanes);
      if (row == kNoRow) continue;
      const E* from = args.weights + bag.feature.weight_offset + uint64_t(row) * bag.feature.embedding_dim;
      float sum = 0.0f;
      for (uint32_t column = bag.lane * N; column < bag.feature.embedding_dim; column += bag.lanes * N) {
        const Vec<E, N> loaded = load<N>(from + column);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += to_f32(loaded.at[j]) * grad[column + j];
      }
      sum = group_sum(sum, bag.lanes, bag.mask);
      if (bag.lane == k) my_sum = sum;
    }
    // Each lane has the sum for its own id, so that they are written side by side.
    if (mine < bounds.end) args.grad_weights[mine] = my_sum / divisor;
  }
  return bad;
}

#define INSTANTIATE(E, I)                                                                                                           \
  extern "C" __global__ void __launch_bounds__(kThreads, 2) embedding_bag_forward_##E##_##I(                                           \
      const Feature* features, const E* weights, const I* indices, const I* offsets, const float* per_sample_weights, float* output, \
      uint32_t* argmax, Status* status, uint64_t output_ld, uint64_t argmax_ld, uint64_t num_indices, uint32_t num_features,         \
      uint32_t batch_size) {                                                                                                        \
    const ForwardArgs<E, I> args = {features, weights, indices, offsets, per_sample_weights, output, argmax, status, output_ld,     \
                                    argmax_ld, num_indices, num_features, batch_size};                                              \
    for_each_bag<E>(args, [&](auto width, const Bag& bag) { return pool(args, bag, width); });                                      \
  }                                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(kThreads, 4) embedding_bag_weight_grad_##E##_##I(                                       \
      const Feature* features, const E* weights, const I* indices, const I* offsets, const float* grad_output, float* grad_weights, \
      Status* status, uint64_t grad_output_ld, uint64_t num_indices, uint32_t num_features, uint32_t batch_size) {                  \
    const WeightGradArgs<E, I> args = {features, weights, indices, offsets, grad_output, grad_weights, status, grad_output_ld,      \
                                       num_indices, num_features, batch_size};                                                      \
    for_each_bag<E>(args, [&](auto width, const Bag& bag) { return weight_grads(args, bag, width); });                              \
  }
FOR_EACH_ELEMENT_AND_INDEX(INSTANTIATE)
