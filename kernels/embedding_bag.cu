// embedding_bag.cu: pooled lookup of bags of ids in a batch of tables, and the gradient of the per-sample weights.
//
// Computes     out[b, columns of f] = sum, mean or max over the rows that bag (f, b) names; see the Rust side for the maths
// Rust         src/ops/embedding_bag.rs, src/backend/cuda/embedding_bag.rs
// Entries      embedding_bag_{forward,weight_grad}_{f32,f16,bf16}_{i32,i64}
// Algorithm    A group of lanes per bag, a power of two of them, as many as the row has runs of 16 bytes, at most a warp: small rows share
//              a warp, large ones are walked in passes of 32 runs. A group takes the ids in order, kInFlight rows at a time: all of their
//              loads are issued before the first is added, so that several misses overlap, yet every column is summed in the order of the ids,
//              which makes results equal to the CPU's to the bit. Splitting a bag over groups would be faster for a few huge bags, but change
//              that order with the shape of the launch. Ids are checked where they are used: a pass of its own would read them twice.
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
  const Feature* feature;
  uint64_t number;   // key-major
  uint64_t sample;
  int lane;          // of the group
  int lanes;         // in the group
  uint32_t mask;     // of the warp
  bool exists;
};

// The number of lanes for rows of `runs` runs of elements: a power of two, at most a warp.
__device__ __forceinline__ int lanes_for(uint32_t runs) { return runs >= 32 ? 32 : runs <= 1 ? 1 : 1 << (32 - __clz(runs - 1)); }

__device__ __forceinline__ Bag bag_of_thread(const Feature* feature, uint32_t f, uint32_t batch_size, int width) {
  const int lanes = lanes_for((feature->embedding_dim + width - 1) / width);
  const uint64_t thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x;
  const uint64_t sample = thread / lanes;
  return {feature, uint64_t(f) * batch_size + sample, sample, int(threadIdx.x % lanes), lanes, group_mask(lanes), sample < batch_size};
}

// Whether all rows of a feature's table begin at a multiple of 16 bytes.
template <typename E>
__device__ __forceinline__ bool has_wide_rows(const E* weights, const Feature* feature) {
  return feature->embedding_dim % kWidest<E> == 0 && is_aligned(weights + feature->weight_offset, 16);
}

// The row that an id names; null for padding and for an id that names none, which sets `bad`.
template <typename E, typename I>
__device__ __forceinline__ const E* row_of(const E* weights, const I* indices, uint64_t position, const Feature* feature, bool& bad) {
  const int64_t id = indices[position];
  const bool in_table = uint64_t(id) < feature->num_embeddings;
  bad |= !in_table;
  const bool is_row = in_table && id != feature->padding_idx;
  return is_row ? weights + feature->weight_offset + uint64_t(id) * feature->embedding_dim : nullptr;
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
  const bool active = column < bag.feature->embedding_dim;
  float pooled[N] = {};
  uint32_t source[N];
#pragma unroll
  for (int j = 0; j < N; ++j) source[j] = kNoSource;
  uint32_t counted = 0;
#pragma unroll 1
  for (uint64_t first = bounds.start; first < bounds.end; first += kRows) {
    Vec<E, N> loaded[kRows];
    bool is_row[kRows];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const E* row = active && first + k < bounds.end ? row_of(args.weights, args.indices, first + k, bag.feature, bad) : nullptr;
      is_row[k] = row;
      if (is_row[k]) loaded[k] = load<N>(row + column);
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (!is_row[k]) continue;
      const float weight = args.per_sample_weights ? args.per_sample_weights[first + k] : 1.0f;
      take<kIsMax>(loaded[k], weight, uint32_t(first + k - bounds.start), counted, pooled, source);
      ++counted;
    }
  }
  if (!active) return;
  if (bag.feature->pooling == kMean && counted > 1) {
#pragma unroll
    for (int j = 0; j < N; ++j) pooled[j] = __fdiv_rn(pooled[j], float(counted));
  }
  store_any(args.output + bag.sample * args.output_ld + bag.feature->column + column, pooled);
  if (kIsMax && args.argmax) {
    uint32_t* argmax = args.argmax + bag.sample * args.argmax_ld + bag.feature->column + column;
#pragma unroll
    for (int j = 0; j < N; ++j) argmax[j] = source[j];
  }
}

// Pools a bag in passes over its columns; tells whether an id names no row.
template <int N, typename E, typename I>
__device__ __forceinline__ bool pool(const ForwardArgs<E, I>& args, const Bag& bag) {
  const Bounds bounds = bounds_of(args.offsets, bag.number, args.num_indices);
  bool bad = false;
#pragma unroll 1
  for (uint32_t start = 0; start < bag.feature->embedding_dim; start += bag.lanes * N) {
    if (bag.feature->pooling == kMax) {
      pool_columns<true, N>(args, bag, bounds, start + bag.lane * N, bad);
    } else {
      pool_columns<false, N>(args, bag, bounds, start + bag.lane * N, bad);
    }
  }
  return bad;
}

template <typename E, typename I>
__device__ __forceinline__ void forward(const ForwardArgs<E, I>& args) {
  const uint64_t num_bags = uint64_t(args.num_features) * args.batch_size;
#pragma unroll 1
  for (uint32_t f = blockIdx.y; f < args.num_features; f += gridDim.y) {
    const Feature* feature = &args.features[f];
    const bool wide = has_wide_rows(args.weights, feature);
    const Bag bag = bag_of_thread(feature, f, args.batch_size, wide ? kWidest<E> : 1);
    if (!bag.exists) continue;
    const bool bad = wide ? pool<kWidest<E>>(args, bag) : pool<1>(args, bag);
    if (bag.lane == 0 && (bad || has_bad_bounds(args.offsets, bag.number, num_bags, args.num_indices))) {
      note_faults(feature, args.indices, args.offsets, bag.number, num_bags, args.num_indices, args.status);
    }
  }
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

// The gradient of the weights of a bag's ids: the dot product of each row with the gradient of the pooled vector. Tells whether an id names
// no row.
template <int N, typename E, typename I>
__device__ __forceinline__ bool weight_grads(const WeightGradArgs<E, I>& args, const Bag& bag) {
  const Bounds bounds = bounds_of(args.offsets, bag.number, args.num_indices);
  bool bad = false;
  float divisor = 1.0f;
  if (bag.feature->pooling == kMean) {
    float counted = 0.0f;
    for (uint64_t position = bounds.start + bag.lane; position < bounds.end; position += bag.lanes) {
      counted += row_of(args.weights, args.indices, position, bag.feature, bad) ? 1.0f : 0.0f;
    }
    divisor = fmaxf(group_sum(counted, bag.lanes, bag.mask), 1.0f);
  }
  const float* grad = args.grad_output + bag.sample * args.grad_output_ld + bag.feature->column;
#pragma unroll 1
  for (uint64_t position = bounds.start; position < bounds.end; ++position) {
    const E* row = row_of(args.weights, args.indices, position, bag.feature, bad);
    float sum = 0.0f;
    if (row) {
      for (uint32_t column = bag.lane * N; column < bag.feature->embedding_dim; column += bag.lanes * N) {
        const Vec<E, N> loaded = load<N>(row + column);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += to_f32(loaded.at[j]) * grad[column + j];
      }
    }
    sum = group_sum(sum, bag.lanes, bag.mask);
    if (bag.lane == 0) args.grad_weights[position] = sum / divisor;
  }
  return bad;
}

template <typename E, typename I>
__device__ __forceinline__ void weight_grad(const WeightGradArgs<E, I>& args) {
  const uint64_t num_bags = uint64_t(args.num_features) * args.batch_size;
#pragma unroll 1
  for (uint32_t f = blockIdx.y; f < args.num_features; f += gridDim.y) {
    const Feature* feature = &args.features[f];
    const bool wide = has_wide_rows(args.weights, feature);
    const Bag bag = bag_of_thread(feature, f, args.batch_size, wide ? kWidest<E> : 1);
    if (!bag.exists) continue;
    const bool bad = wide ? weight_grads<kWidest<E>>(args, bag) : weight_grads<1>(args, bag);
    if (bag.lane == 0 && (bad || has_bad_bounds(args.offsets, bag.number, num_bags, args.num_indices))) {
      note_faults(feature, args.indices, args.offsets, bag.number, num_bags, args.num_indices, args.status);
    }
  }
}

#define INSTANTIATE(E, I)                                                                                                           \
  extern "C" __global__ void __launch_bounds__(kThreads, 2) embedding_bag_forward_##E##_##I(                                           \
      const Feature* features, const E* weights, const I* indices, const I* offsets, const float* per_sample_weights, float* output, \
      uint32_t* argmax, Status* status, uint64_t output_ld, uint64_t argmax_ld, uint64_t num_indices, uint32_t num_features,         \
      uint32_t batch_size) {                                                                                                        \
    forward<E, I>({features, weights, indices, offsets, per_sample_weights, output, argmax, status, output_ld, argmax_ld,           \
                   num_indices, num_features, batch_size});                                                                         \
  }                                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(kThreads, 4) embedding_bag_weight_grad_##E##_##I(                                       \
      const Feature* features, const E* weights, const I* indices, const I* offsets, const float* grad_output, float* grad_weights, \
      Status* status, uint64_t grad_output_ld, uint64_t num_indices, uint32_t num_features, uint32_t batch_size) {                  \
    weight_grad<E, I>({features, weights, indices, offsets, grad_output, grad_weights, status, grad_output_ld, num_indices,         \
                       num_features, batch_size});                                                                                  \
  }
FOR_EACH_ELEMENT_AND_INDEX(INSTANTIATE)
