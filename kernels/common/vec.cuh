// Runs of elements that are loaded and stored in one instruction.
#pragma once

#include "ptx.cuh"

// N elements of E, aligned so that they move in one instruction of N * sizeof(E) bytes, 16 at most.
template <typename E, int N>
struct alignas(sizeof(E) * N) Vec {
  E at[N];
};

// As many elements as 16 bytes hold.
template <typename E>
inline constexpr int kWidest = 16 / int(sizeof(E));

template <int N, typename E>
__device__ __forceinline__ Vec<E, N> load(const E* from) {
  return *reinterpret_cast<const Vec<E, N>*>(from);
}

// Stores a run, at a multiple of its size, in one instruction, even where the compiler would rather join it with single stores elsewhere.
template <typename E, int N>
__device__ __forceinline__ void store(E* to, const Vec<E, N>& run) {
  if constexpr (sizeof(run) == 16) {
    store_words(to, reinterpret_cast<const uint4&>(run));
  } else if constexpr (sizeof(run) == 8) {
    store_words(to, reinterpret_cast<const uint2&>(run));
  } else {
    *reinterpret_cast<Vec<E, N>*>(to) = run;
  }
}

__host__ __device__ __forceinline__ bool is_aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Stores values side by side, from a multiple of 16 bytes on.
template <int N>
__device__ __forceinline__ void store(float* to, const float (&values)[N]) {
#pragma unroll
  for (int k = 0; k + 3 < N; k += 4) {
    *reinterpret_cast<float4*>(to + k) = make_float4(values[k], values[k + 1], values[k + 2], values[k + 3]);
  }
}

// Stores values side by side, 16 bytes at a time where they lie so.
template <int N>
__device__ __forceinline__ void store_any(float* to, const float (&values)[N]) {
  if (N % 4 == 0 && is_aligned(to, 16)) {
    store(to, values);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) to[k] = values[k];
  }
}
