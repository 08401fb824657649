// Instructions that CUDA C++ has no name for: the only inline assembly.
#pragma once

#include <stdint.h>

// Begins to copy BYTES (4, 8 or 16) from global to shared memory without a register in between; both sides begin at a multiple of them. The calling
// thread sees them after `wait_for_copies`, others after a barrier besides.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* to, const void* from) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  const uint32_t shared = uint32_t(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(__cvta_generic_to_global(from)), "n"(BYTES) : "memory");
}

// Makes a group of all copies that the calling thread has begun since the last one.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of the calling thread's groups of copies, the last ones, are under way.
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
