// dense_update.cu: one step of an optimizer on dense parameters, in place.
//
// Computes     parameters and state after the step, for every element, and the parameters rounded
//              to E; src/ops/optimizer.rs has the formulas
// Rust         src/ops/dense_update.rs, src/backend/cuda/dense_update.rs
// Entries      dense_update_{f32,f16,bf16}: E
// Algorithm    1. A grid-stride loop gives each thread runs of four elements, so that accesses are
//                 coalesced.
//              2. A run is one vectorised access of 16 bytes per buffer where all buffers begin at
//                 multiples of 16 bytes (those of 16 bits at multiples of 8); otherwise a thread
//                 takes single elements.
//              3. All threads branch on the optimizer alike. Warps stay converged, and so the
//                 branch costs nothing beside memory; one kernel serves all optimizers.
// Mapping      T = 256 gridDim.x threads:
//                elements  |0 1 2 3|4 5 6 7| ... |4 T - 4 ..|4 T ..|       |rest, one by one|
//                thread    |   0   |   1   | ... |  T - 1   |  0   |  ...  | 0  1  2         |
// Launch       grid (as many blocks as there are runs of 256 * 4 elements, at most 4096), block 256
// Bytes        gradient read, parameters and state read and written, rounded parameters written,
//              each once
// Requires     state buffers that the optimizer does not have are null, as are rounded parameters,
//              values and gate where there are none
// Numerics     every operation rounded separately (no fma), in the order of the CPU: the same bits
//              as there
// Measured     compiled and emulated, tests pass on an NVIDIA H100; not yet measured

#include "common/optimizer.cuh"
#include "common/vec.cuh"
#include "params/dense_update.cuh"

// Updates N elements from `at` on.
template <int N, typename E>
__device__ __forceinline__ void update(const DenseUpdate<E>& p, const OptimizerStep& step,
                                       uint64_t at) {
  const Vec<float, N> grad = load<N>(p.grad + at), old = load<N>(p.parameters + at);
  const Vec<float, N> first = p.first ? load<N>(p.first + at) : Vec<float, N>{};
  const Vec<float, N> second = p.second ? load<N>(p.second + at) : Vec<float, N>{};
  Vec<float, N> parameters, new_first = first, new_second = second;
  Vec<E, N> rounded;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float g = clamped(__fmul_rn(grad.at[k], p.factor), p.max_gradient);
    parameters.at[k] = stepped(step, g, old.at[k], new_first.at[k], new_second.at[k]);
    rounded.at[k] = from_f32<E>(parameters.at[k]);
  }
  store(p.parameters + at, parameters);
  if (p.first) store(p.first + at, new_first);
  if (p.second) store(p.second + at, new_second);
  if (p.rounded) store(p.rounded + at, rounded);
}

template <typename E>
__device__ __forceinline__ void dense_update(const DenseUpdate<E>& p) {
  if (is_shut(p.control)) return;
  const OptimizerStep step = with_values(p.step, p.control.values);
  const uint64_t thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x,
                 threads = uint64_t(gridDim.x) * kThreads;
  const bool wide = is_aligned(p.grad, 16) && is_aligned(p.parameters, 16) &&
                    is_aligned(p.first, 16) && is_aligned(p.second, 16) &&
                    is_aligned(p.rounded, kRun * sizeof(E));
  const uint64_t runs = wide ? p.len / kRun : 0;
#pragma unroll 1
  for (uint64_t run = thread; run < runs; run += threads) update<kRun>(p, step, run * kRun);
#pragma unroll 1
  for (uint64_t k = runs * kRun + thread; k < p.len; k += threads) update<1>(p, step, k);
}

#define DENSE_UPDATE(E)                                            \
  extern "C" __global__ void __launch_bounds__(kThreads)           \
      dense_update_##E(const __grid_constant__ DenseUpdate<E> p) { \
    dense_update(p);                                               \
  }
FOR_EACH_ELEMENT(DENSE_UPDATE)
