// linear.cu: a fully connected layer, forward and backward.
//
// Computes     Y = act(X W^T + b); Z = G where the activation let the value through; dX = Z W, dW =
//              Z^T X, db = column sums of Z
// Rust         src/ops/linear.rs, src/backend/cuda/linear.rs
// Entries      linear_{forward,weight_grad}_{large,small,tiny,narrow}_f32,
//              linear_input_grad_{large,small,tiny}_f32,
//              linear_{forward,input_grad,weight_grad}_mma_{large,small}_{f32,f16,bf16},
//              linear_activation_grad_{f32,f16,bf16}, linear_sum_parts_f32
// Algorithm    Products in tiles of 128 x 128, or of 64 x 64 where the large ones would be too few
//              to fill a device: exact ones of f32 on the ordinary cores (common/simt_product.cuh),
//              those of 16 bits and of tf32 on the tensor cores (common/mma_product.cuh). Exact
//              ones have tiles of 32 x 32, too, for small batches, and of 128 x 16 for no more than
//              16 columns: a layer of one output, or the first one of a bottom MLP. Bias and ReLU
//              are applied on the way out. The sums of the weight's gradient are as long as the
//              batch: they are cut into parts, one for each row of the grid, which go to the
//              workspace and are added in their order by linear_sum_parts. linear_activation_grad
//              makes Z in place and, since it reads all of it, its column sums, again in parts. No
//              atomic additions: their order would be another each time.
// Launch       products: grid (tiles, parts), block 256 (large), 64 (tiny) or 128; activation_grad:
//              grid (runs of columns, parts), block 256; sum_parts: grid ceil((N K + N) / 256),
//              block 256
// Bytes        X, W, G, Y once for each product if L2 holds the tiles that blocks share; the parts
//              written and read besides
// Requires     copies of 16 bytes where rows begin at multiples of 16 bytes; elsewhere of 4 bytes
//              in f32, and in 16 bits words that are put together in registers: either takes two to
//              three times as long on the tensor cores, which models avoid by zeros between rows.
//              Any sizes from 0
// Numerics     f32 sums: of exact products by fma in the order of the terms, on the tensor cores in
//              their own. The bits depend on types and sizes alone, not on launch or tile; 16-bit
//              results are rounded once
// Measured     NVIDIA H200, 2026-11-28, 16384 x 1024 x 1024 forward: f32 882 us, tf32 241 us, bf16
//              112 us; cuBLASLt takes 705, 111 and 61 us. tf32 forward of 2048 x 512 x 415, whose
//              rows do not begin at multiples of 16 bytes: 38 us. Launched by themselves, f32, 128
//              x 512 x 368, forward, dX, dW: 14, 17 and 6 us in tiny tiles; 20, 26 and 7 us in
//              small ones

#include "common/mma_product.cuh"
#include "common/simt_product.cuh"

constexpr int kThreads = 256;

// Stores a run of four columns, those that exist: in one go where it lies at a multiple of its
// size.
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

// The same for a load; zeros for those that do not exist.
__device__ __forceinline__ Vec<float, 4> load_run(const float* from, uint64_t exist) {
  if (exist >= 4 && is_aligned(from, 16)) return load<4>(from);
  Vec<float, 4> run;
#pragma unroll
  for (int k = 0; k < 4; ++k) run.at[k] = k < exist ? from[k] : 0.0f;
  return run;
}

// What becomes of the sums of a product.
template <typename E>
struct Forward {
  const float* bias;
  E* output;
  uint64_t output_ld;
  uint64_t outputs;
  bool relu;

  __device__ __forceinline__ void operator()(uint64_t row, uint64_t col, float (&values)[4]) const {
    const Vec<float, 4> of_bias = load_run(bias + col, outputs - col);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      values[k] += of_bias.at[k];
      // Unlike fmaxf, this lets a NaN through.
      if (relu && values[k] < 0.0f) values[k] = 0.0f;
    }
    store_run(output + row * output_ld + col, values, outputs - col);
  }
};

template <typename E>
struct InputGrad {
  E* grad_input;
  uint64_t grad_input_ld;
  uint64_t inputs;

  __device__ __forceinline__ void operator()(uint64_t row, uint64_t col, float (&values)[4]) const {
    store_run(grad_input + row * grad_input_ld + col, values, inputs - col);
  }
};

struct WeightGrad {
  float* part;
  uint64_t row_stride, col_stride;
  uint64_t cols;

  __device__ __forceinline__ void operator()(uint64_t row, uint64_t col, float (&values)[4]) const {
    float* to = part + row * row_stride + col * col_stride;
    if (col_stride == 1) return store_run(to, values, cols - col);
    for (int k = 0; k < 4 && col + k < cols; ++k) to[k * col_stride] = values[k];
  }
};

// PRODUCT is `product` or `mma_product`; a name ends in the tile and the type.
#define FORWARD(PRODUCT, T, E, name)                                                       \
  extern "C" __global__ void __launch_bounds__(T::kThreads, 512 / T::kThreads)             \
      linear_forward_##name(const E* input, const E* weight, const float* bias, E* output, \
                            uint64_t input_ld, uint64_t weight_ld, uint64_t output_ld,     \
                            uint64_t batch_size, uint64_t outputs, uint64_t inputs,        \
                            uint32_t relu) {                                               \
    PRODUCT<T, E, Row::kOutput, Row::kOutput>(                                             \
        {input, input_ld, batch_size}, {weight, weight_ld, outputs}, 0, uint32_t(inputs),  \
        Forward<E>{bias, output, output_ld, outputs, relu != 0});                          \
  }
#define INPUT_GRAD(PRODUCT, T, E, name)                                                         \
  extern "C" __global__ void __launch_bounds__(T::kThreads, 512 / T::kThreads)                  \
      linear_input_grad_##name(const E* grad, const E* weight, E* grad_input, uint64_t grad_ld, \
                               uint64_t weight_ld, uint64_t grad_input_ld, uint64_t batch_size, \
                               uint64_t outputs, uint64_t inputs) {                             \
    PRODUCT<T, E, Row::kOutput, Row::kTerm>({grad, grad_ld, batch_size},                        \
                                            {weight, weight_ld, inputs}, 0, uint32_t(outputs),  \
                                            InputGrad<E>{grad_input, grad_input_ld, inputs});   \
  }
// The part of a sum over the batch that this row of the grid computes, of the product of the
// transposed `a` with `b`. Element (r, c) of part p goes to parts[p * part_stride + r * row_stride
// + c * col_stride].
#define WEIGHT_GRAD(PRODUCT, T, E, name)                                                      \
  extern "C" __global__ void __launch_bounds__(T::kThreads, 512 / T::kThreads)                \
      linear_weight_grad_##name(const E* a, const E* b, float* parts, uint64_t a_ld,          \
                                uint64_t b_ld, uint64_t part_stride, uint64_t row_stride,     \
                                uint64_t col_stride, uint64_t rows, uint64_t cols,            \
                                uint64_t batch_size, uint64_t part_len) {                     \
    const uint64_t begin = blockIdx.y * part_len;                                             \
    PRODUCT<T, E, Row::kTerm, Row::kTerm>(                                                    \
        {a, a_ld, rows}, {b, b_ld, cols}, begin, uint32_t(min(part_len, batch_size - begin)), \
        WeightGrad{parts + blockIdx.y * part_stride, row_stride, col_stride, cols});          \
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

template <typename E>
struct ActivationGradArgs {
  const E* output;    // null if there is no activation
  E* grad;            // G, and then Z
  float* bias_parts;  // [parts, outputs]
  uint64_t output_ld;
  uint64_t grad_ld;
  uint64_t batch_size;
  uint64_t outputs;
  uint64_t part_len;
};

// Makes Z for the samples of a part, N columns for each thread, and sums it up. A row of the
// block's threads is as long as the layer has runs of columns, at most a warp; the rows share the
// samples.
template <int N, typename E>
__device__ __forceinline__ void activation_grad(const ActivationGradArgs<E>& args) {
  constexpr int kInFlight = 4;
  __shared__ float sums[N][kThreads];
  const uint64_t runs = (args.outputs + N - 1) / N;
  const int width = runs >= 32  ? 32
                    : runs <= 1 ? 1
                                : 1 << (32 - __clz(uint32_t(runs) - 1)),
            rows = kThreads / width;
  const uint64_t col = (uint64_t(blockIdx.x) * width + threadIdx.x % width) * N;
  const uint64_t begin = blockIdx.y * args.part_len,
                 end = min(begin + args.part_len, args.batch_size);
  float sum[N] = {};
  if (col < args.outputs) {
#pragma unroll 1
    for (uint64_t first = begin + threadIdx.x / width; first < end; first += kInFlight * rows) {
      Vec<E, N> grad[kInFlight], output[kInFlight];
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const uint64_t sample = first + k * rows;
        if (sample >= end) break;
        grad[k] = load<N>(args.grad + sample * args.grad_ld + col);
        if (args.output) output[k] = load<N>(args.output + sample * args.output_ld + col);
      }
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const uint64_t sample = first + k * rows;
        if (sample >= end) break;
#pragma unroll
        for (int j = 0; j < N; ++j) {
          // A NaN lets the gradient through.
          if (args.output && to_f32(output[k].at[j]) <= 0.0f) grad[k].at[j] = from_f32<E>(0.0f);
          sum[j] += to_f32(grad[k].at[j]);
        }
        if (args.output) store(args.grad + sample * args.grad_ld + col, grad[k]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) sums[j][threadIdx.x] = sum[j];
#pragma unroll 1
  for (int step = kThreads / 2; step >= width; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) {
#pragma unroll
      for (int j = 0; j < N; ++j) sums[j][threadIdx.x] += sums[j][threadIdx.x + step];
    }
  }
  if (threadIdx.x < width && col < args.outputs) {
#pragma unroll
    for (int j = 0; j < N; ++j)
      args.bias_parts[blockIdx.y * args.outputs + col + j] = sums[j][threadIdx.x];
  }
}

#define ACTIVATION_GRAD(E)                                                               \
  extern "C" __global__ void __launch_bounds__(kThreads) linear_activation_grad_##E(     \
      const E* output, E* grad, float* bias_parts, uint64_t output_ld, uint64_t grad_ld, \
      uint64_t batch_size, uint64_t outputs, uint64_t part_len, uint32_t wide) {         \
    const ActivationGradArgs<E> args = {output,  grad,       bias_parts, output_ld,      \
                                        grad_ld, batch_size, outputs,    part_len};      \
    wide ? activation_grad<kWidest<E>>(args) : activation_grad<1>(args);                 \
  }
ACTIVATION_GRAD(f32)
ACTIVATION_GRAD(f16)
ACTIVATION_GRAD(bf16)

// Adds up the parts of the gradients of weight and bias, in their order.
extern "C" __global__ void __launch_bounds__(kThreads)
    linear_sum_parts_f32(const float* weight_parts, const float* bias_parts, float* grad_weight,
                         float* grad_bias, uint64_t grad_weight_ld, uint64_t outputs,
                         uint64_t inputs, uint32_t num_weight_parts, uint32_t num_bias_parts,
                         uint32_t accumulate) {
  const uint64_t element = uint64_t(blockIdx.x) * kThreads + threadIdx.x,
                 weights = outputs * inputs;
  if (element >= weights + outputs) return;
  const bool of_bias = element >= weights;
  const float* part = of_bias ? bias_parts + (element - weights) : weight_parts + element;
  const uint64_t stride = of_bias ? outputs : weights;
  const uint32_t num_parts = of_bias ? num_bias_parts : num_weight_parts;
  float sum = 0.0f;
#pragma unroll 8
  for (uint32_t k = 0; k < num_parts; ++k) sum += part[k * stride];
  float* to = of_bias ? grad_bias + (element - weights)
                      : grad_weight + element / inputs * grad_weight_ld + element % inputs;
  *to = accumulate ? *to + sum : sum;
}
