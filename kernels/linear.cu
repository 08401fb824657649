// linear.cu: a fully connected layer, forward and backward.
//
// Computes     Y = act(X W^T + b); Z = G where the activation let the value through; dX = Z W, dW =
//              Z^T X, db = column sums of Z
// Rust         src/ops/linear.rs, src/backend/cuda/linear.rs
// Entries      linear_{forward,weight_grad}_{large,small,tiny,narrow}_f32,
//              linear_input_grad_{large,small,tiny}_f32,
//              linear_{forward,input_grad,weight_grad}_mma_{large,small}_{f32,f16,bf16},
//              linear_activation_grad_{f32,f16,bf16}
// Algorithm    1. A block computes one tile of a product: 128 x 128 (large), or 64 x 64 (small)
//                 where the large tiles would be too few to fill a device. Exact f32 products run
//                 on the CUDA cores (common/simt_product.cuh), those of f16, bf16 and tf32 on the
//                 tensor cores (common/mma_product.cuh). Exact products also have tiles of 32 x 32
//                 (tiny) for small batches, and of 128 x 16 (narrow) for at most 16 columns: a
//                 layer of one output, or the first one of a bottom MLP.
//              2. The epilogue adds the bias and applies ReLU while the tile is in registers, which
//                 saves a pass over the output.
//              3. The sums of the weight gradient are as long as the batch, and their tiles are
//                 few. Therefore they are split-K products: each row of the grid computes the
//                 partial sums of one part of the batch into the workspace.
//              4. Of the blocks of a tile, the one that arrives last adds the parts in order.
//                 Atomic additions would add them in another order each time, and change the bits.
//              5. Where X is the output of a layer with ReLU, the epilogue of dX goes on to that
//                 layer's Z and db: it reads X where it stores, and adds the columns of its tile.
//                 The block of these columns that arrives last adds the rows of tiles
//                 (common/column_sums.cuh). A pass of its own would read dX and X and write Z.
//              6. linear_activation_grad is that pass, for a gradient that no product of a layer
//                 has stored, or one by cuBLASLt. It computes Z in place, and the column sums of
//                 each part of the batch. The block of these columns that arrives last adds the
//                 parts in order, and stores db.
// Mapping      forward, input_grad: blockIdx.x -> tile of the output, columns fastest
//                            tile cols: 0    1    2
//                tile row 0     blocks  0    1    2      blocks of a row share rows of X in L2
//                tile row 1             3    4    5
//              weight_grad: blockIdx.x -> tile of dW, blockIdx.y -> part of the batch (split-K)
//              activation_grad, a block of 256 threads = 256 / width rows of `width` threads:
//                thread t -> N columns from N (t mod width) on; samples t / width, + rows, ..
//                then a reduction tree over the rows of threads, in shared memory
// Launch       products: grid (tiles, parts), block 256 (large), 64 (tiny) or 128; activation_grad:
//              grid (runs of columns, parts), block 256
// Bytes        X, W, G, Y once for each product if L2 holds the tiles that blocks share; X again
//              for dX through ReLU; the parts written and read besides
// Requires     copies of 16 bytes where rows begin at multiples of 16 bytes; elsewhere of 4 bytes
//              in f32, and in 16 bits words that are shifted together in registers: either takes
//              two to three times as long on the tensor cores, which models avoid by padding rows
//              with zeros. Any sizes from 0
// Numerics     f32 sums: of exact products by fma in the order of the terms, on the tensor cores in
//              their own. The bits of products depend on types and sizes alone, not on the tile.
//              Those of db depend on the tile, which sizes choose, or on the alignment, if
//              activation_grad computes them. 16-bit results are rounded once
// Measured     dX through ReLU: compiled and emulated, not yet measured. For 65536 x 1024 in bf16 a
//              pass of its own moves 403 MB, 96 us at 4.2 TB/s; the epilogue reads 134 MB, 32 us
//              NVIDIA H200, 2026-11-28, 16384 x 1024 x 1024 forward: f32 882 us, tf32 241 us, bf16
//              112 us; cuBLASLt takes 705, 111 and 61 us. tf32 forward of 2048 x 512 x 415, whose
//              rows do not begin at multiples of 16 bytes: 38 us. Launched by themselves, f32, 128
//              x 512 x 368, forward, dX, dW: 14, 17 and 6 us in tiny tiles; 20, 26 and 7 us in
//              small ones

#include "common/arrivals.cuh"
#include "common/block_reduce.cuh"
#include "common/column_sums.cuh"
#include "common/mma_product.cuh"
#include "common/simt_product.cuh"
#include "params/linear.cuh"

// Stores those of four neighbouring columns that exist, in one vectorised store where they are
// aligned.
template <typename E>
__device__ __forceinline__ void store_run(E* to, const float (&values)[4], uint64_t exist) {
  Vec<E, 4> run;
#pragma unroll
  for (int k = 0; k < 4; ++k) run.at[k] = from_f32<E>(values[k]);
  if (exist >= 4 && is_aligned(to, sizeof(run))) {
    store(to, run);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k < exist) to[k] = run.at[k];
    }
  }
}

// The epilogues of the products: each takes four neighbouring sums of a row.
template <typename E>
struct Forward {
  static constexpr bool kSumsColumns = false;
  const LinearForward<E>& p;

  __device__ __forceinline__ void operator()(uint64_t row, uint64_t col, float (&values)[4]) const {
    const Vec<float, 4> of_bias = load_run(p.bias + col, p.outputs - col);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      values[k] += of_bias.at[k];
      // Unlike fmaxf, this lets a NaN through.
      if (p.relu && values[k] < 0.0f) values[k] = 0.0f;
    }
    store_run(p.output + row * p.output_ld + col, values, p.outputs - col);
  }
};

// Stores the gradient of the input or, where the input is the output of ReLU, the gradient through
// it, whose column sums are the gradient of a bias.
template <typename E>
struct InputGrad {
  static constexpr bool kSumsColumns = true;
  const LinearInputGrad<E>& p;

  __device__ __forceinline__ bool sums_columns() const { return p.input; }
  __device__ __forceinline__ ColumnSums column_sums() const {
    return {p.bias_parts, p.grad_bias, p.arrivals, p.inputs, p.accumulate};
  }

  // Loads the input where a run of the gradient goes.
  __device__ __forceinline__ Vec<E, 4> load_input(uint64_t row, uint64_t col) const {
    return load_run(p.input + row * p.input_ld + col, p.inputs - col);
  }

  __device__ __forceinline__ void operator()(uint64_t row, uint64_t col, float (&values)[4]) const {
    store_run(p.grad_input + row * p.grad_input_ld + col, values, p.inputs - col);
  }

  // Stores a run of the gradient through ReLU, and returns the values that it stored.
  __device__ __forceinline__ void through_relu(uint64_t row, uint64_t col, const Vec<E, 4>& input,
                                               float (&values)[4]) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      // The comparison is false for NaN, which lets the gradient through.
      if (to_f32(input.at[k]) <= 0.0f) values[k] = 0.0f;
      values[k] = to_f32(from_f32<E>(values[k]));
    }
    (*this)(row, col, values);
  }
};

template <typename E>
struct WeightGrad {
  static constexpr bool kSumsColumns = false;
  const LinearWeightGrad<E>& p;

  __device__ __forceinline__ void operator()(uint64_t row, uint64_t col, float (&values)[4]) const {
    float* to = p.parts + blockIdx.y * p.part_stride + row * p.row_stride + col * p.col_stride;
    if (p.col_stride == 1) return store_run(to, values, p.cols - col);
    for (int k = 0; k < 4 && col + k < p.cols; ++k) to[k * p.col_stride] = values[k];
  }
};

// Adds the split-K parts of a tile in order. Neighbouring threads read neighbouring elements.
template <typename T, typename E>
__device__ __forceinline__ void sum_parts(const LinearWeightGrad<E>& p) {
  const TileIndex tile = tile_of_block(p.cols, T::kCols);
  const bool by_rows = p.col_stride == 1;
#pragma unroll 1
  for (uint32_t element = threadIdx.x; element < T::kRows * T::kCols; element += T::kThreads) {
    const uint32_t r = by_rows ? element / T::kCols : element % T::kRows,
                   c = by_rows ? element % T::kCols : element / T::kRows;
    const uint64_t row = uint64_t(tile.row) * T::kRows + r, col = uint64_t(tile.col) * T::kCols + c;
    if (row >= p.rows || col >= p.cols) continue;
    const float* part = p.parts + row * p.row_stride + col * p.col_stride;
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t k = 0; k < gridDim.y; ++k) sum += part[k * p.part_stride];
    const uint64_t at = by_rows ? row * p.grad_weight_ld + col : col * p.grad_weight_ld + row;
    store_sum(p.grad_weight + at, sum, p.accumulate);
  }
}

// PRODUCT is `product` or `mma_product`; the name of a kernel ends in its tile and type.
#define FORWARD(PRODUCT, T, E, name)                                                 \
  extern "C" __global__ void __launch_bounds__(T::kThreads, 512 / T::kThreads)       \
      linear_forward_##name(const __grid_constant__ LinearForward<E> p) {            \
    PRODUCT<T, E, Row::kOutput, Row::kOutput>({p.input, p.input_ld, p.batch_size},   \
                                              {p.weight, p.weight_ld, p.outputs}, 0, \
                                              uint32_t(p.inputs), Forward<E>{p});    \
  }
#define INPUT_GRAD(PRODUCT, T, E, name)                                            \
  extern "C" __global__ void __launch_bounds__(T::kThreads, 512 / T::kThreads)     \
      linear_input_grad_##name(const __grid_constant__ LinearInputGrad<E> p) {     \
    PRODUCT<T, E, Row::kOutput, Row::kTerm>({p.grad, p.grad_ld, p.batch_size},     \
                                            {p.weight, p.weight_ld, p.inputs}, 0,  \
                                            uint32_t(p.outputs), InputGrad<E>{p}); \
  }
// Each row of the grid computes one part of a split-K product over the batch.
#define WEIGHT_GRAD(PRODUCT, T, E, name)                                                       \
  extern "C" __global__ void __launch_bounds__(T::kThreads, 512 / T::kThreads)                 \
      linear_weight_grad_##name(const __grid_constant__ LinearWeightGrad<E> p) {               \
    const uint64_t begin = blockIdx.y * p.part_len;                                            \
    PRODUCT<T, E, Row::kTerm, Row::kTerm>({p.a, p.a_ld, p.rows}, {p.b, p.b_ld, p.cols}, begin, \
                                          uint32_t(min(p.part_len, p.batch_size - begin)),     \
                                          WeightGrad<E>{p});                                   \
    if (arrives_last(p.arrivals + blockIdx.x, gridDim.y)) sum_parts<T>(p);                     \
  }
#define MMA(E)                                         \
  FORWARD(mma_product, MmaLarge, E, mma_large_##E)     \
  FORWARD(mma_product, MmaSmall, E, mma_small_##E)     \
  INPUT_GRAD(mma_product, MmaLarge, E, mma_large_##E)  \
  INPUT_GRAD(mma_product, MmaSmall, E, mma_small_##E)  \
  WEIGHT_GRAD(mma_product, MmaLarge, E, mma_large_##E) \
  WEIGHT_GRAD(mma_product, MmaSmall, E, mma_small_##E)

FORWARD(product, Large, f32, large_f32)
FORWARD(product, Small, f32, small_f32)
FORWARD(product, Tiny, f32, tiny_f32)
FORWARD(product, Narrow, f32, narrow_f32)
INPUT_GRAD(product, Large, f32, large_f32)
INPUT_GRAD(product, Small, f32, small_f32)
INPUT_GRAD(product, Tiny, f32, tiny_f32)
WEIGHT_GRAD(product, Large, f32, large_f32)
WEIGHT_GRAD(product, Small, f32, small_f32)
WEIGHT_GRAD(product, Tiny, f32, tiny_f32)
WEIGHT_GRAD(product, Narrow, f32, narrow_f32)
MMA(f32)
MMA(f16)
MMA(bf16)

// Computes Z for the samples of a part, N columns per thread, and its column sums. The block is a
// grid of threads: a row has as many threads as the layer has vectors of N columns, a power of two
// of at most a warp, so that loads are coalesced; the rows of threads share the samples.
template <int N, typename E>
__device__ __forceinline__ void activation_grad(const LinearActivationGrad<E>& p) {
  constexpr int kInFlight = 4;
  const uint64_t runs = (p.outputs + N - 1) / N;
  const int width = row_width(runs), rows = kThreads / width;
  const uint64_t col = (uint64_t(blockIdx.x) * width + threadIdx.x % width) * N;
  const uint64_t begin = blockIdx.y * p.part_len, end = min(begin + p.part_len, p.batch_size);
  float sum[N] = {};
  if (col < p.outputs) {
#pragma unroll 1
    for (uint64_t first = begin + threadIdx.x / width; first < end; first += kInFlight * rows) {
      Vec<E, N> grad[kInFlight], output[kInFlight];
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const uint64_t sample = first + k * rows;
        if (sample >= end) break;
        grad[k] = load<N>(p.grad + sample * p.grad_ld + col);
        if (p.output) output[k] = load<N>(p.output + sample * p.output_ld + col);
      }
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const uint64_t sample = first + k * rows;
        if (sample >= end) break;
#pragma unroll
        for (int j = 0; j < N; ++j) {
          // The comparison is false for NaN, which lets the gradient through.
          if (p.output && to_f32(output[k].at[j]) <= 0.0f) grad[k].at[j] = from_f32<E>(0.0f);
          sum[j] += to_f32(grad[k].at[j]);
        }
        if (p.output) store(p.grad + sample * p.grad_ld + col, grad[k]);
      }
    }
  }
  __shared__ float sums[N][kThreads];
  sum_rows(sums, sum, width);
  if (threadIdx.x < width && col < p.outputs) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      p.bias_parts[blockIdx.y * p.outputs + col + j] = sum[j];
    }
  }
  if (!arrives_last(p.arrivals + blockIdx.x, gridDim.y)) return;
  // At most 32 N columns: the block has no fewer threads.
  const uint64_t of_thread = uint64_t(blockIdx.x) * width * N + threadIdx.x;
  if (threadIdx.x >= width * N || of_thread >= p.outputs) return;
  float total = 0.0f;
#pragma unroll 8
  for (uint32_t k = 0; k < gridDim.y; ++k) total += p.bias_parts[k * p.outputs + of_thread];
  store_sum(p.grad_bias + of_thread, total, p.accumulate);
}

#define ACTIVATION_GRAD(E)                                                            \
  extern "C" __global__ void __launch_bounds__(kThreads)                              \
      linear_activation_grad_##E(const __grid_constant__ LinearActivationGrad<E> p) { \
    p.wide ? activation_grad<kWidest<E>>(p) : activation_grad<1>(p);                  \
  }
ACTIVATION_GRAD(f32)
ACTIVATION_GRAD(f16)
ACTIVATION_GRAD(bf16)
