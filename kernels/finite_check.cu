// finite_check.cu: the decision on the device whether a step may be taken.
//
// Computes     a gate that is shut where loss or gradients are not finite or ids were wrong, and a
//              count; see the Rust side for when
// Rust         src/ops/finite_check.rs, src/backend/cuda/finite_check.rs
// Entries      finite_check_f32
// Algorithm    1. A grid-stride loop gives each thread runs of four elements, loaded with
//                 vectorised loads where the buffer is aligned. An element is not finite if all
//                 bits of its exponent are set.
//              2. At the end each warp votes, and one lane sets the word if any lane found such an
//                 element: there is at most one atomic per warp.
//              3. In the block that arrives last, one thread combines the word with the loss, the
//                 status and the earlier verdict. The verdict stays on the device, so that no step
//                 waits for the host.
// Mapping      of each of two buffers, T = 256 gridDim.x threads:
//                elements  |0 1 2 3|4 5 6 7| ... |4 T - 4 ..|4 T ..|       |rest, one by one|
//                thread    |   0   |   1   | ... |  T - 1   |  0   |  ...  | 0  1  2         |
//                warp      vote of 32 lanes -> found
//              last block: thread 0 -> gate
// Launch       grid (as many blocks as there are runs of 256 * 4 elements, 1 to 4096), block 256
// Bytes        gradients read once
// Requires     values are null where there are none
// Numerics     bits are compared: the same verdict for any schedule
// Measured     compiled and emulated, tests pass on an NVIDIA H200; not yet measured

#include "common/arrivals.cuh"
#include "common/bags.cuh"
#include "common/finite.cuh"
#include "common/optimizer.cuh"
#include "common/vec.cuh"
#include "params/finite_check.cuh"

// Returns true if an element of this thread's share is not finite.
__device__ __forceinline__ bool share_has_non_finite(const float* values, uint64_t len) {
  const uint64_t thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x,
                 threads = uint64_t(gridDim.x) * kThreads;
  const uint64_t runs = is_aligned(values, 16) ? len / kRun : 0;
  bool found = false;
  // A higher unroll factor would spill registers on some architectures.
#pragma unroll 2
  for (uint64_t run = thread; run < runs; run += threads) {
    const Vec<float, kRun> loaded = load<kRun>(values + run * kRun);
#pragma unroll
    for (int k = 0; k < kRun; ++k) found |= is_infinite_or_nan(loaded.at[k]);
  }
  for (uint64_t k = runs * kRun + thread; k < len; k += threads)
    found |= is_infinite_or_nan(values[k]);
  return found;
}

// Decides on the step. `found` says whether a gradient is not finite.
__device__ __forceinline__ void judge(const FiniteCheck& p, bool found) {
  const uint64_t number = p.values ? p.values->step : p.step;
  const bool was_shut = p.stays_shut && p.verdict->steps > 0;
  const bool is_bad = found || !isfinite(*p.loss);
  if (is_bad) {
    if (++p.verdict->steps == 1) p.verdict->first = number;
    p.verdict->last = number;
  }
  p.verdict->gate = is_bad || was_shut || p.status->count > 0;
  p.verdict->found = 0;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    finite_check_f32(const __grid_constant__ FiniteCheck p) {
  report_non_finite(&p.verdict->found,
                    share_has_non_finite(p.a, p.a_len) || share_has_non_finite(p.b, p.b_len));
  if (!arrives_last(p.arrivals, gridDim.x) || threadIdx.x != 0) return;
  judge(p, p.verdict->found != 0);
}
