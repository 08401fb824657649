// Kernels with one fault each. The line at fault has a comment with the name of the kernel, which
// the tests look for.
#include "ptx.cuh"

extern "C" __global__ void missing_barrier_raw(const float* x, float* out) {
  __shared__ float s[128];
  s[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = s[127 - threadIdx.x];  // AT missing_barrier_raw
}

extern "C" __global__ void missing_barrier_war(const float* x, float* out) {
  __shared__ float s[128];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float v = s[(threadIdx.x + 32) & 127];
  s[threadIdx.x] = v + 1.f;  // AT missing_barrier_war
  __syncthreads();
  out[threadIdx.x] = s[127 - threadIdx.x];
}

extern "C" __global__ void missing_syncwarp(const float* x, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t] = x[t];
  out[t] = s[(t & 32) + ((t + 4) & 31)];  // AT missing_syncwarp
}

extern "C" __global__ void shuffle_is_no_fence(const float* x, float* out) {
  __shared__ float s[32];
  const int t = threadIdx.x;
  s[t] = x[t];
  const float v = __shfl_xor_sync(~0u, x[t], 1);
  out[t] = v + s[t ^ 3];  // AT shuffle_is_no_fence
}

extern "C" __global__ void global_out_of_bounds(const float* x, float* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) out[i] = 1.f;  // AT global_out_of_bounds
}

extern "C" __global__ void global_before_buffer(const float* x, float* out) {
  out[threadIdx.x] = x[(int)threadIdx.x - 1];  // AT global_before_buffer
}

extern "C" __global__ void shared_out_of_bounds(const float* x, float* out) {
  extern __shared__ float s[];
  s[threadIdx.x + (threadIdx.x == 63)] = x[threadIdx.x];  // AT shared_out_of_bounds
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}

extern "C" __global__ void misaligned_vector(const float* x, float* out) {
  const float4* from = reinterpret_cast<const float4*>(x + 1 + 4 * threadIdx.x);
  const float4 v = *from;  // AT misaligned_vector
  out[threadIdx.x] = v.x + v.w;
}

extern "C" __global__ void missing_copy_wait(const float* x, float* out) {
  __shared__ __align__(16) float s[128];
  cp_async16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_commit();
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];  // AT missing_copy_wait
  cp_async_wait<0>();
}

extern "C" __global__ void copy_wait_without_barrier(const float* x, float* out) {
  __shared__ float s[64];
  cp_async4(s + threadIdx.x, x + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = s[threadIdx.x ^ 32];  // AT copy_wait_without_barrier
}

extern "C" __global__ void divergent_barrier(const float* x, float* out) {
  __shared__ float s[256];
  s[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x < 128) {
    s[threadIdx.x] += 1.f;
    __syncthreads();  // AT divergent_barrier
    out[threadIdx.x] = s[threadIdx.x ^ 1];
  }
  __syncthreads();
  if (threadIdx.x >= 128) out[threadIdx.x] = s[threadIdx.x ^ 1];
}

extern "C" __global__ void barrier_in_half_a_warp(const float* x, float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x & 1) {
    __syncthreads();  // AT barrier_in_half_a_warp
    out[threadIdx.x] = s[threadIdx.x ^ 2];
  } else {
    out[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 2);
  }
}

extern "C" __global__ void diverged_shuffle(const float* x, float* out) {
  float v = x[threadIdx.x];
  if (threadIdx.x & 1) v += __shfl_xor_sync(~0u, v, 2);  // AT diverged_shuffle
  __syncthreads();
  out[threadIdx.x] = v;
}

extern "C" __global__ void not_in_own_mask(const float* x, float* out) {
  out[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], 0);  // AT not_in_own_mask
}

extern "C" __global__ void two_blocks_one_row(const float* x, float* out) {
  float* row = out + blockIdx.x / 2 * blockDim.x;
  row[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];  // AT two_blocks_one_row
}

extern "C" __global__ void warps_one_row(const float* x, float* out) {
  out[threadIdx.x & 31] = x[threadIdx.x];  // AT warps_one_row
}

extern "C" __global__ void lanes_one_word(const float* x, float* out) {
  out[threadIdx.x / 2] = x[0];  // AT lanes_one_word
}

extern "C" __global__ void missing_fence(const float* x, float* partial, unsigned* done,
                                         float* out) {
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = x[blockIdx.x];
    if (atomicAdd(done, 1u) == gridDim.x - 1) {
      float all = 0.f;
      for (int b = 0; b < gridDim.x; b++) all += __ldcg(partial + b);  // AT missing_fence
      *out = all;
    }
  }
}

// A sum of atomics is read before all threads have added to it.
extern "C" __global__ void atomics_without_barrier(const float* x, float* out) {
  __shared__ float sum;
  if (threadIdx.x == 0) sum = 0.f;
  __syncthreads();
  atomicAdd(&sum, x[threadIdx.x]);
  out[threadIdx.x] = *(float*)&sum;  // AT atomics_without_barrier
}

extern "C" __global__ void read_through_freed(const float* x, float* out) {
  out[threadIdx.x] = x[threadIdx.x];  // AT read_through_freed
}

extern "C" __global__ void uninitialised_global(const float* x, float* out) {
  out[threadIdx.x] = x[threadIdx.x + 1];  // AT uninitialised_global
}

extern "C" __global__ void uninitialised_shared(const float* x, float* out) {
  __shared__ float s[64];
  if (threadIdx.x != 5) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];  // AT uninitialised_shared
}

extern "C" __global__ void uninitialised_byte(const unsigned char* x, unsigned* out) {
  extern __shared__ unsigned char bytes[];
  if (threadIdx.x != 9) bytes[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x < 8)
    out[threadIdx.x] = reinterpret_cast<unsigned*>(bytes)[threadIdx.x];  // AT uninitialised_byte
}

extern "C" __global__ void read_only_alias(const float* __restrict__ x, float* __restrict__ out) {
  out[threadIdx.x] = 1.f;
  __syncthreads();
  out[threadIdx.x + 64] = __ldg(x + (threadIdx.x ^ 33));  // AT read_only_alias
}

extern "C" __global__ void endless_loop(const volatile int* x, float* out) {
  while (x[0] == 0) continue;  // AT endless_loop
  out[0] = 1.f;
}

extern "C" __global__ void gives_up(const float* x, float* out) {
  if (threadIdx.x == 40) __trap();  // AT gives_up
  out[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void copy_group_off_by_one(const float* x, float* out) {
  __shared__ float s[2][32];
  for (int k = 0; k < 2; k++) {
    cp_async4(&s[k][threadIdx.x], x + 32 * k + threadIdx.x);
    cp_async_commit();
  }
  cp_async_wait<1>();
  __syncwarp();
  out[threadIdx.x] = s[1][threadIdx.x ^ 1];  // AT copy_group_off_by_one
  cp_async_wait<0>();
}

extern "C" __global__ void copy_over_what_is_read(const float* x, float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x ^ 32];
  cp_async4(s + threadIdx.x, x + 64 + threadIdx.x);  // AT copy_over_what_is_read
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] += s[threadIdx.x ^ 32];
}

extern "C" __global__ void plain_beside_atomic(const float* x, float* out) {
  if (blockIdx.x == 0)
    atomicAdd(out, x[0]);
  else if (threadIdx.x == 0)
    out[0] = 2.f;  // AT plain_beside_atomic
}

extern "C" __global__ void shared_atomic_then_read(const float* x, float* out) {
  __shared__ float sum;
  if (threadIdx.x == 0) sum = 0.f;
  __syncthreads();
  atomicAdd(&sum, x[threadIdx.x]);
  out[threadIdx.x] = sum;  // AT shared_atomic_then_read
}

extern "C" __global__ void grid_barrier_without_fence(const float* x, float* room,
                                                      unsigned* arrived, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  room[i] = x[i];
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicAdd(arrived, 1u);
    while (*reinterpret_cast<volatile unsigned*>(arrived) != gridDim.x) {
    }
  }
  __syncthreads();
  out[i] = room[n - 1 - i];  // AT grid_barrier_without_fence
}

extern "C" __global__ void vector_past_the_tail(const float* x, float* out, int n) {
  const int i = 4 * threadIdx.x;
  if (i < n) {
    const float4 v = *reinterpret_cast<const float4*>(x + i);  // AT vector_past_the_tail
    out[threadIdx.x] = v.x + v.y + v.z + v.w;
  }
}

extern "C" __global__ void misaligned_matrix_row(const float* x, float* out) {
  __shared__ __align__(16) __nv_bfloat16 s[16 * 20];
  for (int i = threadIdx.x; i < 16 * 20; i += 32) s[i] = __float2bfloat16(x[i]);
  __syncwarp();
  uint32_t r[4];
  ldmatrix_x4(r, s + (threadIdx.x % 16) * 20 + threadIdx.x / 16 * 8);  // AT misaligned_matrix_row
  out[threadIdx.x] = __uint_as_float(r[0] ^ r[1] ^ r[2] ^ r[3]);
}

extern "C" __global__ void named_barrier_too_wide(const float* x, float* out) {
  __shared__ float s[64];
  if (threadIdx.x < 64) {
    s[threadIdx.x] = x[threadIdx.x];
    asm volatile("bar.sync 1, 96;" ::: "memory");  // AT named_barrier_too_wide
    out[threadIdx.x] = s[threadIdx.x ^ 32];
  }
}

extern "C" __global__ void half_a_warp_synchronised(const float* x, float* out) {
  __shared__ float s[32];
  s[threadIdx.x] = x[threadIdx.x];
  __syncwarp(threadIdx.x < 16 ? 0xffffu : 0xffff0000u);
  out[threadIdx.x] = s[threadIdx.x ^ 16];  // AT half_a_warp_synchronised
}

extern "C" __global__ void local_out_of_bounds(const int* x, float* out) {
  volatile float l[4] = {1.f, 2.f, 3.f, 4.f};
  out[threadIdx.x] = l[x[threadIdx.x]];  // AT local_out_of_bounds
}

extern "C" __global__ void left_by_another_block(const float* x, float* out) {
  __shared__ float s[32];
  if (blockIdx.x == 0) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  out[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x ^ 1];  // AT left_by_another_block
}

extern "C" __global__ void vote_in_a_branch(const float* x, float* out) {
  float v = x[threadIdx.x];
  if (threadIdx.x < 24) v += __popc(__ballot_sync(~0u, v > 3.f));  // AT vote_in_a_branch
  __syncthreads();
  out[threadIdx.x] = v;
}
