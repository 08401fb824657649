// Instructions without an intrinsic in CUDA C++: the only inline assembly.
#pragma once

#include "dtype.cuh"

// Prefetches the line of 128 bytes that holds an address of global memory into L2.
__device__ __forceinline__ void prefetch_line(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// Starts a cp.async copy of N bytes (4, 8 or 16) from global to shared memory, which needs no
// register. It copies the first `bytes` of them and fills the rest with zeros. Both addresses are
// aligned to N. A cached copy goes through L1, for data that many threads read; only 16-byte copies
// can bypass it. The calling thread sees the copies after `wait_for_copies`, other threads after a
// barrier besides.
template <int N, bool kCached = (N < 16)>
__device__ __forceinline__ void copy_async(void* to, const void* from, uint32_t bytes = N) {
  static_assert(N == 4 || N == 8 || N == 16);
  const uint32_t shared = uint32_t(__cvta_generic_to_shared(to));
  if constexpr (kCached) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(N),
                 "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.cg.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(N),
                 "r"(bytes)
                 : "memory");
  }
}

// Commits the copies that the calling thread has started since the last commit as a group.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most the last PENDING groups of the calling thread are in flight.
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Waits for all copies that the calling thread has started.
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// Loads four matrices of 8 rows of 16 bytes from shared memory as tensor-core fragments. Lane 8 m +
// r passes the address of row r of matrix m; each lane receives, of each matrix, the 4 bytes at
// lane % 4 of row lane / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}

// Loads four matrices of 8 x 8 elements of 16 bits like `load_matrices`, transposed.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}

// Returns the nearest tf32, whose low 13 bits are zero.
__device__ __forceinline__ float round_to_tf32(float x) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return __uint_as_float(rounded);
}

// Rounds factors of f32 to tf32, which the tensor cores take; factors of 16 bits stay as they are.
template <typename E>
__device__ __forceinline__ void round_factors(uint32_t (&factors)[4]) {
  if constexpr (sizeof(E) == 4) {
#pragma unroll
    for (int k = 0; k < 4; ++k)
      factors[k] = __float_as_uint(round_to_tf32(__uint_as_float(factors[k])));
  }
}

// Computes sums += A B on the tensor cores, with A 16 x 32 bytes, B 32 bytes x 8, and sums 16 x 8.
// The fragments of a lane are: of A, the result of `load_matrices` for the upper left, lower left,
// upper right and lower right quarter; of B, column lane / 4 in two halves; of the sums, columns 2
// (lane % 4) and the next one, in rows lane / 4 and lane / 4 + 8. An f32 must be a tf32.
template <typename E>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4],
                                             uint32_t b_low, uint32_t b_high);

#define MULTIPLY_ADD(E, INSTRUCTION)                                                        \
  template <>                                                                               \
  __device__ __forceinline__ void multiply_add<E>(float (&sums)[4], const uint32_t (&a)[4], \
                                                  uint32_t b_low, uint32_t b_high) {        \
    asm("mma.sync.aligned." INSTRUCTION                                                     \
        " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                  \
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                        \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));             \
  }
MULTIPLY_ADD(f32, "m16n8k8.row.col.f32.tf32.tf32.f32")
MULTIPLY_ADD(f16, "m16n8k16.row.col.f32.f16.f16.f32")
MULTIPLY_ADD(bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
#undef MULTIPLY_ADD

// Stores 16 or 8 bytes to global memory in one instruction.
__device__ __forceinline__ void store_words(void* to, uint4 words) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.x), "r"(words.y),
               "r"(words.z), "r"(words.w)
               : "memory");
}
__device__ __forceinline__ void store_words(void* to, uint2 words) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(words.x), "r"(words.y) : "memory");
}
// Stores 8 bytes to shared memory in one instruction.
__device__ __forceinline__ void store_words_shared(void* to, uint2 words) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(uint32_t(__cvta_generic_to_shared(to))),
               "r"(words.x), "r"(words.y)
               : "memory");
}
