// moving_average.cu: an exponential moving average of parameters, in place.
//
// Computes     average += (1 - decay) (value - average), for every element
// Rust         src/ops/moving_average.rs, src/backend/cuda/moving_average.rs
// Entries      moving_average_f32
// Algorithm    One thread per run of four elements, in a loop over the grid: reads and writes of 16
//              bytes where both buffers begin at multiples of 16 bytes, else one element at a time
// Launch       grid (as many blocks as there are runs of 256 * 4 elements, at most 4096), block 256
// Bytes        values read, average read and written: as bytes_moved()
// Requires     values and gate are null where there are none
// Numerics     difference, product and sum rounded separately (no fma): the same bits as on the CPU
// Measured     compiled and emulated, tests pass on an NVIDIA H100; not yet measured

#include "common/optimizer.cuh"
#include "common/vec.cuh"

constexpr int kThreads = 256;
constexpr int kRun = 4;

__device__ __forceinline__ float blend(float share, float value, float average) {
  return __fadd_rn(average, __fmul_rn(share, __fsub_rn(value, average)));
}

extern "C" __global__ void __launch_bounds__(kThreads)
    moving_average_f32(const float* values, float* average, uint64_t len, float decay,
                       const StepValues* step_values, const uint64_t* gate) {
  if (is_shut(gate)) return;
  const float share = __fsub_rn(1.0f, step_values ? step_values->decay : decay);
  const uint64_t thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x,
                 threads = uint64_t(gridDim.x) * kThreads;
  const bool wide = is_aligned(values, 16) && is_aligned(average, 16);
  const uint64_t runs = wide ? len / kRun : 0;
  for (uint64_t run = thread; run < runs; run += threads) {
    const Vec<float, kRun> value = load<kRun>(values + run * kRun),
                           before = load<kRun>(average + run * kRun);
    float after[kRun];
#pragma unroll
    for (int k = 0; k < kRun; ++k) after[k] = blend(share, value.at[k], before.at[k]);
    store(average + run * kRun, after);
  }
  for (uint64_t k = runs * kRun + thread; k < len; k += threads)
    average[k] = blend(share, values[k], average[k]);
}
