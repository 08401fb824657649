// The last block of a group, which finishes what the others have begun in the same launch.
#pragma once

#include <stdint.h>

// Returns true, in all threads, in the block that arrives last of `blocks`. It then sees all that
// the others have written before. The counter is 0 before the first block arrives, and again after
// the last one has. A single block needs no counter.
__device__ __forceinline__ bool arrives_last(uint32_t* counter, uint32_t blocks) {
  __syncthreads();
  if (blocks == 1) return true;
  bool is_last = false;
  // One thread counts for its block. The barriers before and after order the accesses of the other
  // threads with its fences, which are cumulative.
  if (threadIdx.x == 0) {
    __threadfence();
    is_last = atomicAdd(counter, 1u) == blocks - 1;
    if (is_last) atomicExch(counter, 0u);
    __threadfence();
  }
  return __syncthreads_or(is_last);
}
