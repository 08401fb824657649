// linear.cu: a fully connected layer, forward and backward.
//
// Computes     Y = act(X W^T + b); Z = G where the activation let the value through; dX = Z W, dW = Z^T X, db = column sums of Z
// Rust         src/ops/linear.rs, src/backend/cuda/linear.rs
// Entries      linear_{forward,weight_grad}_{large,small,narrow}_f32, linear_input_grad_{large,small}_f32, linear_activation_grad_f32,
//              linear_sum_parts_f32
// Algorithm    Products in tiles (common/simt_product.cuh) of 128 x 128, of 64 x 64 where the large ones would be too few to fill a device, of
//              128 x 16 where there are no more than 16 columns: a layer of one output, or the first one of a bottom MLP. Bias and ReLU are applied
//              on the way out. The sums of the weight's gradient are as long as the batch: they are cut into parts, one for each row of the
//              grid, which go to the workspace and are added in their order by linear_sum_parts. linear_activation_grad makes Z in place and, since
//              it reads all of it, its column sums, again in parts. No atomic additions: their order would be another each time.
// Launch       products: grid (tiles, parts), block 256 (large) or 128; activation_grad: grid (runs of columns, parts), block 256;
//              sum_parts: grid ceil((N K + N) / 256), block 256
// Bytes        X, W, G, Y once for each product if L2 holds the tiles that blocks share; the parts written and read besides
// Requires     copies of 16 bytes where rows begin at multiples of 16 bytes, else of 4; any sizes from 0
// Numerics     f32, fma in the order of the terms: the bits depend on the sizes alone, not on launch, device or tile
// Measured     compiled and emulated, not yet measured

#include "common/simt_product.cuh"

constexpr int kThreads = 256;

// Stores a run of four columns, those that exist: in one go where it lies at a multiple of 16 bytes.
__device__ __forceinline__ void store_run(float* to, const float (&values)[4], uint64_t exist) {
  if (exist >= 4 && is_aligned(to, 16)) {
    store(to, values);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k < exist) to[k] = values[k];
    }
  }
}

struct Forward {
  const float* bias;
  float* output;
  uint64_t output_ld;
  uint64_t outputs;
  bool relu;

  __device__ __forceinline__ void operator()(uint64_t row, uint64_t col, float (&values)[4]) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (col + k < outputs) values[k] += bias[col + k];
      // Unlike fmaxf, this lets a NaN through.
      if (relu && values[k] < 0.0f) values[k] = 0.0f;
    }
    store_run(output + row * output_ld + col, values, outputs - col);
  }
};

#define FORWARD(T, name)                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(T::kThreads, 512 / T::kThreads)                                                               \
      linear_forward_##name##_f32(const float* input, const float* weight, const float* bias, float* output, uint64_t input_ld,             \
                                  uint64_t weight_ld, uint64_t output_ld, uint64_t batch_size, uint64_t outputs, uint64_t inputs,           \
                                  uint32_t relu) {                                                                                          \
    product<T, Row::kOutput, Row::kOutput>({input, input_ld, batch_size}, {weight, weight_ld, outputs}, 0, uint32_t(inputs),                          \
                                           Forward{bias, output, output_ld, outputs, relu != 0});                                           \
  }
FORWARD(Large, large)
FORWARD(Small, small)
FORWARD(Narrow, narrow)

#define INPUT_GRAD(T, name)                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(T::kThreads, 512 / T::kThreads)                                                               \
      linear_input_grad_##name##_f32(const float* grad, const float* weight, float* grad_input, uint64_t grad_ld, uint64_t weight_ld,       \
                                     uint64_t grad_input_ld, uint64_t batch_size, uint64_t outputs, uint64_t inputs) {                      \
    product<T, Row::kOutput, Row::kTerm>(                                                                                                   \
        {grad, grad_ld, batch_size}, {weight, weight_ld, inputs}, 0, uint32_t(outputs),                                                               \
        [=](uint64_t row, uint64_t col, float(&values)[4]) { store_run(grad_input + row * grad_input_ld + col, values, inputs - col); });   \
  }
INPUT_GRAD(Large, large)
INPUT_GRAD(Small, small)

// The part of a sum over the batch that this row of the grid computes, of the product of the transposed `a` with `b`. Element (r, c) of part p
// goes to parts[p * part_stride + r * row_stride + c * col_stride].
#define WEIGHT_GRAD(T, name)                                                                                                                \
  extern "C" __global__ void __launch_bounds__(T::kThreads, 512 / T::kThreads)                                                               \
      linear_weight_grad_##name##_f32(const float* a, const float* b, float* parts, uint64_t a_ld, uint64_t b_ld, uint64_t part_stride,     \
                                      uint64_t row_stride, uint64_t col_stride, uint64_t rows, uint64_t cols, uint64_t batch_size,          \
                                      uint64_t part_len) {                                                                                  \
    const uint64_t begin = blockIdx.y * part_len;                                                                                           \
    float* part = parts + blockIdx.y * part_stride;                                                                                         \
    product<T, Row::kTerm, Row::kTerm>({a, a_ld, rows}, {b, b_ld, cols}, begin, uint32_t(min(part_len, batch_size - begin)),                                                      \
                                       [=](uint64_t row, uint64_t col, float(&values)[4]) {                                                 \
                                         float* to = part + row * row_stride + col * col_stride;                                            \
                                         if (col_stride == 1) return store_run(to, values, cols - col);                                     \
                                         for (int k = 0; k < 4 && col + k < cols; ++k) to[k * col_stride] = values[k];                      \
                                       });                                                                                                  \
  }
WEIGHT_GRAD(Large, large)
WEIGHT_GRAD(Small, small)
WEIGHT_GRAD(Narrow, narrow)

struct ActivationGradArgs {
  const float* output;  // null if there is no activation
  float* grad;          // G, and then Z
  float* bias_parts;    // [parts, outputs]
  uint64_t output_ld;
  uint64_t grad_ld;
  uint64_t batch_size;
  uint64_t outputs;
  uint64_t part_len;
};

// Makes Z for the samples of a part, N columns for each thread, and sums it up. A row of the block's threads is as long as the layer has runs of
// columns, at most a warp; the rows share the samples.
template <int N>
__device__ __forceinline__ void activation_grad(const ActivationGradArgs& args) {
  constexpr int kInFlight = 4;
  __shared__ Vec<float, N> sums[kThreads];
  const uint64_t runs = (args.outputs + N - 1) / N;
  const int width = runs >= 32 ? 32 : runs <= 1 ? 1 : 1 << (32 - __clz(uint32_t(runs) - 1)), rows = kThreads / width;
  const uint64_t col = (uint64_t(blockIdx.x) * width + threadIdx.x % width) * N;
  const uint64_t begin = blockIdx.y * args.part_len, end = min(begin + args.part_len, args.batch_size);
  Vec<float, N> sum = {};
  if (col < args.outputs) {
#pragma unroll 1
    for (uint64_t first = begin + threadIdx.x / width; first < end; first += kInFlight * rows) {
      Vec<float, N> grad[kInFlight], output[kInFlight];
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
          if (args.output && output[k].at[j] <= 0.0f) grad[k].at[j] = 0.0f;
          sum.at[j] += grad[k].at[j];
        }
        if (args.output) *reinterpret_cast<Vec<float, N>*>(args.grad + sample * args.grad_ld + col) = grad[k];
      }
    }
  }
  sums[threadIdx.x] = sum;
#pragma unroll 1
  for (int step = kThreads / 2; step >= width; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) {
#pragma unroll
      for (int j = 0; j < N; ++j) sums[threadIdx.x].at[j] += sums[threadIdx.x + step].at[j];
    }
  }
  if (threadIdx.x < width && col < args.outputs) {
#pragma unroll
    for (int j = 0; j < N; ++j) args.bias_parts[blockIdx.y * args.outputs + col + j] = sums[threadIdx.x].at[j];
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    linear_activation_grad_f32(const float* output, float* grad, float* bias_parts, uint64_t output_ld, uint64_t grad_ld, uint64_t batch_size,
                               uint64_t outputs, uint64_t part_len, uint32_t wide) {
  const ActivationGradArgs args = {output, grad, bias_parts, output_ld, grad_ld, batch_size, outputs, part_len};
  wide ? activation_grad<4>(args) : activation_grad<1>(args);
}

// Adds up the parts of the gradients of weight and bias, in their order.
extern "C" __global__ void __launch_bounds__(kThreads)
    linear_sum_parts_f32(const float* weight_parts, const float* bias_parts, float* grad_weight, float* grad_bias, uint64_t grad_weight_ld,
                         uint64_t outputs, uint64_t inputs, uint32_t num_weight_parts, uint32_t num_bias_parts, uint32_t accumulate) {
  const uint64_t element = uint64_t(blockIdx.x) * kThreads + threadIdx.x, weights = outputs * inputs;
  if (element >= weights + outputs) return;
  const bool of_bias = element >= weights;
  const float* part = of_bias ? bias_parts + (element - weights) : weight_parts + element;
  const uint64_t stride = of_bias ? outputs : weights;
  const uint32_t num_parts = of_bias ? num_bias_parts : num_weight_parts;
  float sum = 0.0f;
#pragma unroll 8
  for (uint32_t k = 0; k < num_parts; ++k) sum += part[k * stride];
  float* to = of_bias ? grad_bias + (element - weights) : grad_weight + element / inputs * grad_weight_ld + element % inputs;
  *to = accumulate ? *to + sum : sum;
}
