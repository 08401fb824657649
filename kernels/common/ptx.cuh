// Instructions that C++ has no words for; the only inline assembly.
#pragma once

#include "dtype.cuh"

// One store of 16 or 8 bytes to global memory.
__device__ __forceinline__ void store_words(void* to, uint4 words) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w) : "memory");
}
__device__ __forceinline__ void store_words(void* to, uint2 words) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(words.x), "r"(words.y) : "memory");
}

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

// Four 8 x 8 matrices of 16-bit elements from shared memory, whose rows of 16 bytes begin at the addresses of eight lanes each: lane l gets
// elements 2 (l % 4) and the next of row l / 4 of each. Of 32-bit elements these are 8 x 4.
__device__ __forceinline__ void load_matrices(const void* row, uint32_t (&out)[4]) {
  const uint32_t shared = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared)
               : "memory");
}

// The same of the transposed matrices.
__device__ __forceinline__ void load_matrices_transposed(const void* row, uint32_t (&out)[4]) {
  const uint32_t shared = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared)
               : "memory");
}

// sums += a b on the tensor cores: a 16 x 16, b 16 x 8, of 16-bit elements; of f32 that have been rounded to tf32 16 x 8 and 8 x 8.
#define MULTIPLY_ADD(E, SHAPE)                                                                                                            \
  __device__ __forceinline__ void multiply_add(float(&sums)[4], const uint32_t(&a)[4], const uint32_t(&b)[2], E) {                       \
    asm volatile("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                             \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                                     \
  }
MULTIPLY_ADD(f16, "m16n8k16.row.col.f32.f16.f16.f32")
MULTIPLY_ADD(bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MULTIPLY_ADD(f32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef MULTIPLY_ADD

// The bits of an f32 rounded to tf32: to the nearest, ties away from zero.
__device__ __forceinline__ uint32_t round_to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}
