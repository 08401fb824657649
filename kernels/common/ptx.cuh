// Instructions that C++ has no words for; the only inline assembly.
#pragma once

#include <stdint.h>

// Starts a copy of N bytes (4 or 16) from global to shared memory, both at multiples of N: `bytes` of them, and zeros for the rest.
template <int N>
__device__ __forceinline__ void copy_async(void* to, const void* from, uint32_t bytes) {
  static_assert(N == 4 || N == 16, "4 bytes go through L1, 16 past it");
  const uint32_t shared = uint32_t(__cvta_generic_to_shared(to));
  if constexpr (N == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(from), "r"(bytes) : "memory");
  }
}

// Closes a group of copies.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until no more than the last N groups of this thread are under way.
template <int N>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
