// Vectors of elements that are loaded and stored in one instruction.
#pragma once

#include "dtype.cuh"
#include "params/dtype.cuh"
#include "params/vec.cuh"
#include "ptx.cuh"

// A vector of N elements, aligned so that it moves in one instruction of N * sizeof(E) bytes, at
// most 16.
template <typename E, int N>
struct alignas(sizeof(E) * N) Vec {
  E at[N];
};

// The number of elements in the widest vectorised load or store.
template <typename E>
inline constexpr int kWidest = kVectorBytes / int(sizeof(E));

// The number of elements of a lane's vectorised load, as a type.
template <int N>
struct Width {
  static constexpr int kElements = N;
};

// A compile-time choice, as a type.
template <bool kValue>
struct Bool {
  static constexpr bool value = kValue;
};

template <int N, typename E>
__device__ __forceinline__ Vec<E, N> load(const E* from) {
  return *reinterpret_cast<const Vec<E, N>*>(from);
}

// Starts the copy of N elements to shared memory; see `copy_async`. Single elements of 16 bits are
// copied synchronously.
template <int N, typename E>
__device__ __forceinline__ void fetch_async(E* to, const E* from) {
  if constexpr (N * sizeof(E) >= 4) {
    copy_async<N * sizeof(E), true>(to, from);
  } else {
    *to = *from;
  }
}

// Stores an aligned vector in one instruction, even where the compiler would merge it with single
// stores elsewhere.
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

// Rounds two values to the nearest of the type and stores them to shared memory in one instruction.
// `to` is aligned to both together.
__device__ __forceinline__ void store_two(f32* to, float x, float y) {
  store_words_shared(to, make_uint2(__float_as_uint(x), __float_as_uint(y)));
}
__device__ __forceinline__ void store_two(f16* to, float x, float y) {
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(x, y);
}
__device__ __forceinline__ void store_two(bf16* to, float x, float y) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(x, y);
}

// Loads N contiguous values, in one vectorised load if they are aligned.
template <int N, typename E>
__device__ __forceinline__ Vec<E, N> load_any(const E* from) {
  if (is_aligned(from, N * sizeof(E))) return load<N>(from);
  Vec<E, N> values;
#pragma unroll
  for (int k = 0; k < N; ++k) values.at[k] = from[k];
  return values;
}

// Loads those of four neighbouring values that exist, in one vectorised load where they are
// aligned; the others are 0.
template <typename E>
__device__ __forceinline__ Vec<E, 4> load_run(const E* from, uint64_t exist) {
  if (exist >= 4 && is_aligned(from, sizeof(Vec<E, 4>))) return load<4>(from);
  Vec<E, 4> run;
#pragma unroll
  for (int k = 0; k < 4; ++k) run.at[k] = k < exist ? from[k] : from_f32<E>(0.0f);
  return run;
}

// Stores contiguous values, 16 bytes at a time. `to` is aligned to 16 bytes.
template <int N>
__device__ __forceinline__ void store(float* to, const float (&values)[N]) {
#pragma unroll
  for (int k = 0; k + 3 < N; k += 4) {
    *reinterpret_cast<float4*>(to + k) =
        make_float4(values[k], values[k + 1], values[k + 2], values[k + 3]);
  }
}

// Stores contiguous values, 16 bytes at a time if they are aligned.
template <int N>
__device__ __forceinline__ void store_any(float* to, const float (&values)[N]) {
  if (N % 4 == 0 && is_aligned(to, 16)) {
    store(to, values);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) to[k] = values[k];
  }
}

// Rounds contiguous values to the nearest of a 16-bit type and stores them, in one instruction if
// they are aligned.
template <int N, typename E>
__device__ __forceinline__ void store_any(E* to, const float (&values)[N]) {
  Vec<E, N> rounded;
#pragma unroll
  for (int k = 0; k < N; ++k) rounded.at[k] = from_f32<E>(values[k]);
  if (is_aligned(to, sizeof(rounded))) {
    store(to, rounded);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) to[k] = rounded.at[k];
  }
}

// Stores contiguous values from element `index` of a matrix of a type on, rounded to nearest.
template <int N>
__device__ __forceinline__ void store_as(DType type, void* to, uint64_t index,
                                         const float (&values)[N]) {
  if (type == kF32) {
    store_any(static_cast<float*>(to) + index, values);
  } else if (type == kF16) {
    store_any(static_cast<f16*>(to) + index, values);
  } else {
    store_any(static_cast<bf16*>(to) + index, values);
  }
}

// Loads N contiguous elements, in one vectorised load.
template <int N, typename E>
__device__ __forceinline__ Vec<float, N> load_as_f32(const E* from) {
  const Vec<E, N> loaded = load<N>(from);
  Vec<float, N> values;
#pragma unroll
  for (int j = 0; j < N; ++j) values.at[j] = to_f32(loaded.at[j]);
  return values;
}

// Loads N contiguous elements of a type, in one vectorised load.
template <int N>
__device__ __forceinline__ Vec<float, N> load_as_f32(DType type, const void* from) {
  if (type == kF32) return load<N>(static_cast<const float*>(from));
  return type == kF16 ? load_as_f32<N>(static_cast<const f16*>(from))
                      : load_as_f32<N>(static_cast<const bf16*>(from));
}

// Returns the address of element `index` of a matrix of a type.
__device__ __forceinline__ const void* address_of(DType type, const void* matrix, uint64_t index) {
  return static_cast<const char*>(matrix) + (index << (type == kF32 ? 2 : 1));
}
