// Storage types and how they become f32 and come of it; the one list of what is instantiated for
// which types.
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

// The nearest value of a type; ties go to the even one.
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

// INSTANTIATE(E) is expanded for every storage type.
#define FOR_EACH_ELEMENT(INSTANTIATE) \
  INSTANTIATE(f32)                    \
  INSTANTIATE(f16)                    \
  INSTANTIATE(bf16)

// INSTANTIATE(E, I) is expanded for every storage type of a table with every type of ids. The names
// of the types are those of Rust: they end up in the names of the kernels, by which
// src/backend/cuda/runtime/module.rs finds them.
#define FOR_EACH_ELEMENT_AND_INDEX(INSTANTIATE) \
  INSTANTIATE(f32, i32)                         \
  INSTANTIATE(f32, i64)                         \
  INSTANTIATE(f16, i32)                         \
  INSTANTIATE(f16, i64)                         \
  INSTANTIATE(bf16, i32)                        \
  INSTANTIATE(bf16, i64)

// INSTANTIATE(A, B) is expanded for every storage type with every other one and itself.
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
