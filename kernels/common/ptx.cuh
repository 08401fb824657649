// Instructions that CUDA C++ has no name for: the only inline assembly.
#pragma once

#include <stdint.h>

// Copies N floats (1 or 4) from global to shared memory without a register in between; both sides begin at a multiple of their size. The calling
// thread sees them after `wait_for_copies`, others after a barrier besides.
template <int N>
__device__ __forceinline__ void copy_async(float* to, const float* from) {
  static_assert(N == 1 || N == 4, "one float or 16 bytes");
  const uint32_t shared = uint32_t(__cvta_generic_to_shared(to));
  const uint64_t global = __cvta_generic_to_global(from);
  if (N == 4) {
    // Past the first-level cache: nothing is read twice.
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(global) : "memory");
  }
}

// Waits for all copies that the calling thread has begun.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
