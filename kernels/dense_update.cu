// dense_update.cu: one step of an optimizer on dense parameters, in place.
//
// Computes     parameters and state after the step, for every element, and the parameters rounded
//              to E; src/ops/optimizer.rs has the formulas
// Rust         src/ops/dense_update.rs, src/backend/cuda/dense_update.rs
// Entries      dense_update_{f32,f16,bf16}: E
// Algorithm    One thread per run of four elements, in a loop over the grid: reads and writes of 16
//              bytes where all buffers begin at multiples of 16 bytes (those of 16 bits at
//              multiples of 8), else one element at a time. Which optimizer it is, is the same for
//              all threads: a branch costs nothing beside memory.
// Launch       grid (as many blocks as there are runs of 256 * 4 elements, at most 4096), block 256
// Bytes        gradient read, parameters and state read and written, rounded parameters written: as
//              bytes_moved()
// Requires     state buffers that the optimizer does not have are null, as are rounded parameters,
//              values and gate where there are none
// Numerics     every operation rounded separately (no fma), in the order of the CPU: the same bits
//              as there
// Measured     compiled and emulated, tests pass on an NVIDIA H100; not yet measured

#include "common/optimizer.cuh"
#include "common/vec.cuh"

constexpr int kThreads = 256;
constexpr int kRun = 4;

template <typename E>
struct Arguments {
  const float* grad;
  float* parameters;
  float* first;   // null for kSgd
  float* second;  // null but for kAdam
  E* rounded;     // or null
  float factor;   // of the gradient
  float max_gradient;
  Step step;
};

// Brings N elements from `at` on up to date.
template <int N, typename E>
__device__ __forceinline__ void update(const Arguments<E>& args, uint64_t at) {
  const Vec<float, N> grad = load<N>(args.grad + at), old = load<N>(args.parameters + at);
  const Vec<float, N> first = args.first ? load<N>(args.first + at) : Vec<float, N>{};
  const Vec<float, N> second = args.second ? load<N>(args.second + at) : Vec<float, N>{};
  Vec<float, N> parameters, new_first = first, new_second = second;
  Vec<E, N> rounded;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float g = clamped(__fmul_rn(grad.at[k], args.factor), args.max_gradient);
    parameters.at[k] = stepped(args.step, g, old.at[k], new_first.at[k], new_second.at[k]);
    rounded.at[k] = from_f32<E>(parameters.at[k]);
  }
  store(args.parameters + at, parameters);
  if (args.first) store(args.first + at, new_first);
  if (args.second) store(args.second + at, new_second);
  if (args.rounded) store(args.rounded + at, rounded);
}

template <typename E>
__device__ __forceinline__ void dense_update(const Arguments<E>& args, uint64_t len) {
  const uint64_t thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x,
                 threads = uint64_t(gridDim.x) * kThreads;
  const bool wide = is_aligned(args.grad, 16) && is_aligned(args.parameters, 16) &&
                    is_aligned(args.first, 16) && is_aligned(args.second, 16) &&
                    is_aligned(args.rounded, kRun * sizeof(E));
  const uint64_t runs = wide ? len / kRun : 0;
#pragma unroll 1
  for (uint64_t run = thread; run < runs; run += threads) update<kRun>(args, run * kRun);
#pragma unroll 1
  for (uint64_t k = runs * kRun + thread; k < len; k += threads) update<1>(args, k);
}

#define DENSE_UPDATE(E)                                                                            \
  extern "C" __global__ void __launch_bounds__(kThreads) dense_update_##E(                         \
      const float* grad, float* parameters, float* first, float* second, E* rounded, uint64_t len, \
      float factor, float max_gradient, uint32_t optimizer, float learning_rate, float l2,         \
      float shrink, float eps, float beta1, float beta2, float first_correction,                   \
      float second_correction, const StepValues* step_values, const uint64_t* gate) {              \
    if (is_shut(gate)) return;                                                                     \
    const Step step = {optimizer,        learning_rate,    l2, shrink, eps, beta1, beta2,          \
                       first_correction, second_correction};                                       \
    dense_update<E>({grad, parameters, first, second, rounded, factor, max_gradient,               \
                     with_values(step, step_values)},                                              \
                    len);                                                                          \
  }
FOR_EACH_ELEMENT(DENSE_UPDATE)
