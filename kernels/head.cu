// head.cu: the last layer of a model, which has one output, with the loss and all gradients.
//
// Computes     z = X w + b; in training also the mean loss of the logits z and, with g its gradient
//              times loss_scale, dX = g w^T, dw = X^T g and db = the sum of g; src/ops/loss.rs has
//              the formulas of the losses
// Rust         src/ops/head.rs, src/backend/cuda/head.rs
// Entries      head_{forward,loss_and_grads}_{f32,f16,bf16}
// Algorithm    1. A row of threads computes the logit of a sample: each thread the products of some
//                 columns, by vectorised loads, then a tree of shuffles. A tile of a matrix product
//                 would put few blocks on the device, since there is one column.
//              2. In training a block computes one part of the batch. Behind a barrier, one thread
//                 computes the loss and the gradient of a sample. Behind another one, the threads
//                 read the same columns of the same samples again, from L1 or L2, and have dX and
//                 the products of dw at once. So one launch takes the place of six.
//              3. Where X is the output of ReLU, dX is multiplied by ReLU's derivative, since X is
//                 at hand, and its column sums are the gradient of the bias of the layer before.
//              4. The sums over the batch are split-K: a block adds those of its part in a fixed
//                 reduction tree, and the block that arrives last adds the parts in a fixed order.
//                 The losses are summed in the tree of loss.cu, so that the mean is the same bits.
// Mapping      K / N runs of N columns, N = 16 bytes of elements; a row of threads is as wide as
//              there are runs, at most a warp
//                thread   0    1   .. w-1 | w   w+1 .. | ..
//                sample   0    0   ..  0  | 1    1  .. | .. 256 / w - 1, then + 256 / w
//                run      0    1   .. w-1 | 0    1  .. | .. then + w
//              the losses: thread t -> sample t of the part, + 256, ..
// Launch       forward: grid ceil(batch_size / 32); loss_and_grads: grid (parts), at least 1; block
//              256
// Bytes        X and dX once, if L2 holds the samples of the blocks that run at a time; logits and
//              their gradient written, then read; the parts written and read besides
// Requires     vectorised accesses where the rows of X and dX, w and the parts of dw in the
//              workspace begin and end at multiples of 16 bytes; any sizes from 0, but at most
//              2^32 - 2 samples; labels may hold anything: one that is not in [0, 1] is skipped and
//              noted
// Numerics     logits: f32 by fma, in an order that depends on K and the type alone; losses: terms
//              and sums in f64; dX: one product, rounded to f32 and to the type; dw, db: f32 sums
//              whose order depends on batch size, K and type alone. Nothing depends on alignment
// Measured     compiled and emulated, not yet measured. The least for 65536 x 256 in bf16 at 4.2
//              TB/s: forward 33.8 MB, 8 us; loss_and_grads 68 MB, 16 us

#include "common/arrivals.cuh"
#include "common/block_reduce.cuh"
#include "common/sample_loss.cuh"
#include "common/vec.cuh"
#include "params/head.cuh"

// The number of samples that a thread loads before it computes.
constexpr int kInFlight = 4;

// Loads N neighbouring elements, of which `exist` exist; the others are 0. `kWide` says that all
// exist and are aligned.
template <bool kWide, int N, typename E>
__device__ __forceinline__ void load_run(const E* from, uint64_t exist, E (&to)[N]) {
  if constexpr (kWide) {
    constexpr int kRun = N < kWidest<E> ? N : kWidest<E>;
#pragma unroll
    for (int k = 0; k < N; k += kRun) {
      const Vec<E, kRun> run = load<kRun>(from + k);
#pragma unroll
      for (int j = 0; j < kRun; ++j) to[k + j] = run.at[j];
    }
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) to[k] = k < exist ? from[k] : from_f32<E>(0.0f);
  }
}

// Computes the logits of samples `begin` to `end - 1`. `p` holds the parameters of either kernel.
template <bool kWide, typename E, typename P>
__device__ __forceinline__ void compute_logits(const P& p, uint64_t begin, uint64_t end) {
  constexpr int N = kWidest<E>;
  const int width = row_width((p.inputs + N - 1) / N), rows = kThreads / width;
#pragma unroll 1
  for (uint64_t first = begin; first < end; first += kInFlight * rows) {
    const uint64_t own = first + threadIdx.x / width;
    float sums[kInFlight] = {};
#pragma unroll 1
    for (uint64_t col = threadIdx.x % width * N; col < p.inputs; col += width * N) {
      E x[kInFlight][N] = {};
      float w[N];
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const uint64_t sample = own + k * rows;
        if (sample < end)
          load_run<kWide>(p.input + sample * p.input_ld + col, p.inputs - col, x[k]);
      }
      load_run<kWide>(p.weight + col, p.inputs - col, w);
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
#pragma unroll
        for (int j = 0; j < N; ++j) sums[k] = __fmaf_rn(to_f32(x[k][j]), w[j], sums[k]);
      }
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      const float sum = group_sum(sums[k], width);
      const uint64_t sample = own + k * rows;
      if (threadIdx.x % width == 0 && sample < end) p.logits[sample] = sum + *p.bias;
    }
  }
}

// Computes losses and gradients of the logits of a part, and the part's share of the gradient of
// the bias. A warp sums the losses of kSamples samples.
template <typename E>
__device__ __forceinline__ void compute_losses(const HeadLossAndGrads<E>& p, uint64_t begin,
                                               uint64_t end) {
  static_assert(kSamples == 32, "the samples of a warp");
  float grads = 0.0f;
#pragma unroll 1
  for (uint64_t first = begin + threadIdx.x / 32 * 32; first < end; first += kThreads) {
    const uint64_t sample = first + threadIdx.x % 32;
    double value = 0.0;
    if (sample < end) {
      const Loss loss = checked_loss(p, sample, p.logits[sample], kHead);
      const float grad = logit_grad(p, loss);
      p.grad_logits[sample] = grad;
      grads += grad;
      value = loss.value;
    }
    value = group_sum(value, 32);
    if (threadIdx.x % 32 == 0) p.loss_sums[first / kSamples] = value;
  }
  grads = block_sum<kThreads>(grads);
  if (threadIdx.x == 0) p.bias_parts[blockIdx.x] = grads;
}

// Writes a part's sums of the columns from `col` on, the first of this thread.
template <int N>
__device__ __forceinline__ void store_part(float* parts, uint64_t inputs, uint64_t col, int width,
                                           float (*sums)[kThreads], float (&sum)[N]) {
  sum_rows(sums, sum, width);
  if (threadIdx.x >= width) return;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if (col + j < inputs) parts[blockIdx.x * inputs + col + j] = sum[j];
  }
}

// Computes the gradient of the inputs of a part, and the part's share of the gradients of the
// weight and of the bias before.
template <bool kWide, typename E>
__device__ __forceinline__ void compute_grads(const HeadLossAndGrads<E>& p, uint64_t begin,
                                              uint64_t end, float (*sums)[kThreads]) {
  constexpr int N = kWidest<E>;
  const int width = row_width((p.inputs + N - 1) / N), rows = kThreads / width;
#pragma unroll 1
  for (uint64_t first_col = 0; first_col < p.inputs; first_col += width * N) {
    const uint64_t col = first_col + threadIdx.x % width * N;
    float sum[N] = {}, before[N] = {}, w[N];
    if (col < p.inputs) {
      load_run<kWide>(p.weight + col, p.inputs - col, w);
#pragma unroll 1
      for (uint64_t own = begin + threadIdx.x / width; own < end; own += kInFlight * rows) {
        E x[kInFlight][N];
        float grads[kInFlight];
#pragma unroll
        for (int k = 0; k < kInFlight; ++k) {
          const uint64_t sample = own + k * rows;
          if (sample >= end) break;
          load_run<kWide>(p.input + sample * p.input_ld + col, p.inputs - col, x[k]);
          grads[k] = p.grad_logits[sample];
        }
#pragma unroll
        for (int k = 0; k < kInFlight; ++k) {
          const uint64_t sample = own + k * rows;
          if (sample >= end) break;
          Vec<E, N> grad;
#pragma unroll
          for (int j = 0; j < N; ++j) {
            const float of_x = to_f32(x[k][j]);
            sum[j] = __fmaf_rn(of_x, grads[k], sum[j]);
            grad.at[j] = from_f32<E>(grads[k] * w[j]);
            // The comparison is false for NaN, which lets the gradient through.
            if (p.grad_bias_before && of_x <= 0.0f) grad.at[j] = from_f32<E>(0.0f);
            before[j] += to_f32(grad.at[j]);
          }
          E* to = p.grad_input + sample * p.grad_input_ld + col;
          if constexpr (kWide) {
            store(to, grad);
          } else {
#pragma unroll
            for (int j = 0; j < N; ++j) {
              if (j < p.inputs - col) to[j] = grad.at[j];
            }
          }
        }
      }
    }
    store_part(p.weight_parts, p.inputs, col, width, sums, sum);
    if (p.grad_bias_before) store_part(p.before_parts, p.inputs, col, width, sums, before);
  }
}

// Adds the parts of the sums of all columns.
template <bool kWide>
__device__ __forceinline__ void sum_columns(const float* parts, uint64_t inputs, float* to,
                                            uint32_t accumulate, float (*sums)[kThreads]) {
  constexpr int N = kWidest<float>;
  const int width = row_width((inputs + N - 1) / N), rows = kThreads / width;
#pragma unroll 1
  for (uint64_t first_col = 0; first_col < inputs; first_col += width * N) {
    const uint64_t col = first_col + threadIdx.x % width * N;
    float sum[N] = {};
    if (col < inputs) {
#pragma unroll 8
      for (uint32_t part = threadIdx.x / width; part < gridDim.x; part += rows) {
        float of_part[N];
        load_run<kWide>(parts + part * inputs + col, inputs - col, of_part);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += of_part[j];
      }
    }
    sum_rows(sums, sum, width);
    if (threadIdx.x >= width) continue;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (col + j < inputs) store_sum(to + col + j, sum[j], accumulate);
    }
  }
}

// Adds the sums of all parts, in the block that arrived last.
template <bool kWide, typename E>
__device__ __forceinline__ void sum_parts(const HeadLossAndGrads<E>& p, float (*sums)[kThreads]) {
  // The sums of loss.cu: of the warps of a block of samples in order, then of the blocks.
  constexpr int kWarps = kThreads / kSamples;
  const uint64_t loss_sums = (p.batch_size + kSamples - 1) / kSamples;
  double loss = 0.0;
#pragma unroll 1
  for (uint64_t first = threadIdx.x * kWarps; first < loss_sums; first += kThreads * kWarps) {
    double of_block = 0.0;
#pragma unroll
    for (int k = 0; k < kWarps; ++k) {
      if (first + k < loss_sums) of_block += p.loss_sums[first + k];
    }
    loss += of_block;
  }
  loss = block_sum<kThreads>(loss);
  float bias = 0.0f;
#pragma unroll 1
  for (uint32_t part = threadIdx.x; part < gridDim.x; part += kThreads) bias += p.bias_parts[part];
  bias = block_sum<kThreads>(bias);
  if (threadIdx.x == 0) {
    *p.mean = p.batch_size == 0 ? 0.0 : loss * (1.0 / double(p.batch_size));
    store_sum(p.grad_bias, bias, p.accumulate);
  }
  sum_columns<kWide>(p.weight_parts, p.inputs, p.grad_weight, p.accumulate, sums);
  if (p.grad_bias_before)
    sum_columns<kWide>(p.before_parts, p.inputs, p.grad_bias_before, p.accumulate, sums);
}

template <bool kWide, typename E>
__device__ __forceinline__ void loss_and_grads(const HeadLossAndGrads<E>& p,
                                               float (*sums)[kThreads]) {
  const uint64_t begin = blockIdx.x * p.part_len, end = min(begin + p.part_len, p.batch_size);
  compute_logits<kWide, E>(p, begin, end);
  __syncthreads();
  compute_losses(p, begin, end);
  __syncthreads();
  compute_grads<kWide>(p, begin, end, sums);
  if (arrives_last(p.arrivals, gridDim.x)) sum_parts<kWide>(p, sums);
}

#define HEAD(E)                                                                                \
  extern "C" __global__ void __launch_bounds__(kThreads)                                       \
      head_forward_##E(const __grid_constant__ HeadForward<E> p) {                             \
    const uint64_t begin = uint64_t(blockIdx.x) * kSamples,                                    \
                   end = min(begin + kSamples, p.batch_size);                                  \
    p.wide ? compute_logits<true, E>(p, begin, end) : compute_logits<false, E>(p, begin, end); \
  }                                                                                            \
  extern "C" __global__ void __launch_bounds__(kThreads)                                       \
      head_loss_and_grads_##E(const __grid_constant__ HeadLossAndGrads<E> p) {                 \
    __shared__ float sums[kWidest<E>][kThreads];                                               \
    p.wide ? loss_and_grads<true>(p, sums) : loss_and_grads<false>(p, sums);                   \
  }
FOR_EACH_ELEMENT(HEAD)
