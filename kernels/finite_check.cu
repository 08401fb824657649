// finite_check.cu: whether a step may be taken, found out on the device and kept there.
//
// Computes     a gate that is shut where loss or gradients are not finite or ids were wrong, and a
//              count; see the Rust side for when
// Rust         src/ops/finite_check.rs, src/backend/cuda/finite_check.rs
// Entries      finite_check_scan_f32, finite_check_judge
// Algorithm    `scan`: one thread per run of four elements, in a loop over the grid; a warp that
//              has seen an exponent of all ones says so once, at its end. `judge`: one thread puts
//              that together with loss, status and what was before.
// Launch       scan: grid (as many blocks as there are runs of 256 * 4 elements, at most 4096),
//              block 256; judge: a single warp
// Bytes        gradients read: as bytes_moved()
// Requires     values are null where there are none
// Numerics     bits are compared: the same verdict for any schedule
// Measured     compiled and emulated, tests pass on an NVIDIA H200; not yet measured

#include "common/bags.cuh"
#include "common/optimizer.cuh"
#include "common/vec.cuh"

constexpr int kThreads = 256;
constexpr int kRun = 4;

// Mirrors `Verdict` in src/ops/finite_check.rs.
struct Verdict {
  uint64_t gate;
  uint64_t steps;
  uint64_t first;
  uint64_t last;
  uint32_t found;  // whether `scan` has seen something; zero between steps
  uint32_t reserved;
};
static_assert(sizeof(Verdict) == 5 * 8, "src/ops/finite_check.rs says the same");

__device__ __forceinline__ bool is_infinite_or_nan(float x) {
  return (__float_as_uint(x) & 0x7f800000u) == 0x7f800000u;
}

// Whether one of this thread's share of the elements is not finite.
__device__ __forceinline__ bool has_non_finite(const float* values, uint64_t len) {
  const uint64_t thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x,
                 threads = uint64_t(gridDim.x) * kThreads;
  const uint64_t runs = is_aligned(values, 16) ? len / kRun : 0;
  bool found = false;
  for (uint64_t run = thread; run < runs; run += threads) {
    const Vec<float, kRun> loaded = load<kRun>(values + run * kRun);
#pragma unroll
    for (int k = 0; k < kRun; ++k) found |= is_infinite_or_nan(loaded.at[k]);
  }
  for (uint64_t k = runs * kRun + thread; k < len; k += threads)
    found |= is_infinite_or_nan(values[k]);
  return found;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    finite_check_scan_f32(const float* a, const float* b, uint64_t a_len, uint64_t b_len,
                          Verdict* verdict) {
  const bool found = has_non_finite(a, a_len) || has_non_finite(b, b_len);
  if (__any_sync(0xffffffffu, found) && threadIdx.x % 32 == 0) atomicOr(&verdict->found, 1u);
}

extern "C" __global__ void __launch_bounds__(32)
    finite_check_judge(const double* loss, const StepValues* step_values, const Status* status,
                       Verdict* verdict, uint64_t step, uint32_t stays_shut) {
  if (threadIdx.x != 0) return;
  const uint64_t number = step_values ? step_values->step : step;
  const bool was_shut = stays_shut && verdict->steps > 0;
  const bool is_bad = verdict->found != 0 || !isfinite(*loss);
  if (is_bad) {
    if (++verdict->steps == 1) verdict->first = number;
    verdict->last = number;
  }
  verdict->gate = is_bad || was_shut || status->count > 0;
  verdict->found = 0;
}
