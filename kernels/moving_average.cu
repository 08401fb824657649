// moving_average.cu: an exponential moving average of parameters, in place.
//
// Computes     average += (1 - decay) (value - average), for every element
// Rust         src/ops/moving_average.rs, src/backend/cuda/moving_average.rs
// Entries      moving_average_f32
// Algorithm    1. A grid-stride loop gives each thread runs of four elements, so that accesses are
//                 coalesced.
//              2. A run is one vectorised access of 16 bytes where both buffers begin at multiples
//                 of 16 bytes; otherwise a thread takes single elements.
// Mapping      T = 256 gridDim.x threads:
//                elements  |0 1 2 3|4 5 6 7| ... |4 T - 4 ..|4 T ..|       |rest, one by one|
//                thread    |   0   |   1   | ... |  T - 1   |  0   |  ...  | 0  1  2         |
// Launch       grid (as many blocks as there are runs of 256 * 4 elements, at most 4096), block 256
// Bytes        values read, average read and written, each once
// Requires     values and gate are null where there are none
// Numerics     difference, product and sum rounded separately (no fma): the same bits as on the CPU
// Measured     compiled and emulated, tests pass on an NVIDIA H100; not yet measured

#include "common/optimizer.cuh"
#include "common/vec.cuh"
#include "params/moving_average.cuh"

__device__ __forceinline__ float blend(float share, float value, float average) {
  return __fadd_rn(average, __fmul_rn(share, __fsub_rn(value, average)));
}

extern "C" __global__ void __launch_bounds__(kThreads)
    moving_average_f32(const __grid_constant__ MovingAverage p) {
  if (is_shut(p.control)) return;
  const StepValues* const step_values = p.control.values;
  const float share = __fsub_rn(1.0f, step_values ? step_values->decay : p.decay);
  const uint64_t thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x,
                 threads = uint64_t(gridDim.x) * kThreads;
  const bool wide = is_aligned(p.values, 16) && is_aligned(p.average, 16);
  const uint64_t runs = wide ? p.len / kRun : 0;
  for (uint64_t run = thread; run < runs; run += threads) {
    const Vec<float, kRun> value = load<kRun>(p.values + run * kRun),
                           before = load<kRun>(p.average + run * kRun);
    float after[kRun];
#pragma unroll
    for (int k = 0; k < kRun; ++k) after[k] = blend(share, value.at[k], before.at[k]);
    store(p.average + run * kRun, after);
  }
  for (uint64_t k = runs * kRun + thread; k < p.len; k += threads)
    p.average[k] = blend(share, p.values[k], p.average[k]);
}
