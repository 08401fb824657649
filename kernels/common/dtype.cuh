// Storage types, their conversions to and from f32, and the lists of types for which kernels are
// instantiated.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

using f32 = float;
using f16 = __half;
using bf16 = __nv_bfloat16;
using i32 = int32_t;
using i64 = int64_t;

__device__ __forceinline__ float to_f32(f32 x) { return x; }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }

// Returns the nearest value of a storage type, ties to even.
template <typename E>
__device__ __forceinline__ E from_f32(float x);
template <>
__device__ __forceinline__ f32 from_f32<f32>(float x) {
  return x;
}
template <>
__device__ __forceinline__ f16 from_f32<f16>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// Expands INSTANTIATE(E) for every storage type.
#define FOR_EACH_ELEMENT(INSTANTIATE) \
  INSTANTIATE(f32)                    \
  INSTANTIATE(f16)                    \
  INSTANTIATE(bf16)

// Expands INSTANTIATE(E, I) for every storage type of a table and every type of ids. The types have
// the names of Rust, since these become part of the kernels' names, by which
// src/backend/cuda/runtime/module.rs finds them.
#define FOR_EACH_ELEMENT_AND_INDEX(INSTANTIATE) \
  INSTANTIATE(f32, i32)                         \
  INSTANTIATE(f32, i64)                         \
  INSTANTIATE(f16, i32)                         \
  INSTANTIATE(f16, i64)                         \
  INSTANTIATE(bf16, i32)                        \
  INSTANTIATE(bf16, i64)

// Expands INSTANTIATE(A, B) for every pair of storage types.
#define FOR_EACH_PAIR_OF_ELEMENTS(INSTANTIATE) \
  INSTANTIATE(f32, f32)                        \
  INSTANTIATE(f32, f16)                        \
  INSTANTIATE(f32, bf16)                       \
  INSTANTIATE(f16, f32)                        \
  INSTANTIATE(f16, f16)                        \
  INSTANTIATE(f16, bf16)                       \
  INSTANTIATE(bf16, f32)                       \
  INSTANTIATE(bf16, f16)                       \
  INSTANTIATE(bf16, bf16)
