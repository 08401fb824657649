// The opcodes that nvcc emits for the rest of the language. The emulator must know all of them;
// tests/opcodes.rs checks the results of most.
#include <cassert>

#include "ptx.cuh"

extern "C" __global__ void mathematics(const float* x, float* y, double* z, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float v = x[i];
  float* o = y + 16 * i;
  o[0] = expf(v);
  o[1] = logf(v + 2.f);
  o[2] = tanhf(v);
  o[3] = rsqrtf(v + 2.f);
  o[4] = powf(v + 2.f, 2.5f);
  o[5] = log1pf(v);
  o[6] = sinf(v * 100.f);
  o[7] = erff(v);
  o[8] = fdividef(v, 3.f);
  o[9] = rintf(v * 8.f);
  o[10] = roundf(v * 8.f);
  o[11] = __expf(v);
  o[12] = cbrtf(v);
  o[13] = fmaf(v, v, -v);
  o[14] = 1.f / (1.f + __expf(-v));
  o[15] = fmaxf(v, 0.f);
  z[2 * i] = exp((double)v) / 3.0;
  z[2 * i + 1] = log(z[2 * i]) + sqrt(2.0 + v);
}

extern "C" __global__ void halves_and_brains(const __half2* a, const __nv_bfloat162* b, float* out,
                                             __half2* sum_h, __nv_bfloat162* sum_b) {
  const int i = threadIdx.x;
  const float2 h = __half22float2(__hfma2(a[i], a[i], __hadd2(a[i], a[i])));
  const float2 g = __bfloat1622float2(__hfma2(b[i], b[i], __hmul2(b[i], b[i])));
  out[8 * i] = h.x, out[8 * i + 1] = h.y, out[8 * i + 2] = g.x, out[8 * i + 3] = g.y;
  out[8 * i + 4] = __half2float(__hmax(__low2half(a[i]), __high2half(a[i])));
  out[8 * i + 5] = __bfloat162float(__hmin(__low2bfloat16(b[i]), __high2bfloat16(b[i])));
  out[8 * i + 6] = __hlt(__low2half(a[i]), __high2half(a[i])) ? 1.f : 0.f;
  out[8 * i + 7] =
      __half2float(hexp(__low2half(a[i]))) + __bfloat162float(hsqrt(__habs(__low2bfloat16(b[i]))));
  atomicAdd(sum_h, __float2half2_rn(0.5f));
  atomicAdd(sum_b, __float2bfloat162_rn(0.25f));
}

struct Sizes {
  int a;
  long long b;
  int c[5];
};
extern "C" __global__ void integers(const int* x, unsigned* y, long long* z, Sizes sizes,
                                    int shift) {
  const int i = threadIdx.x, v = x[i];
  const unsigned u = (unsigned)v * 2654435761u;
  unsigned* o = y + 16 * i;
  o[0] = __popc(v) + __clz(v) + __ffs(v);
  o[1] = __brev(u);
  o[2] = __byte_perm(v, u, 0x5140);
  o[3] = __mulhi(v, 12345);
  o[4] = __umulhi(u, 77777u);
  o[5] = __funnelshift_l(u, v, shift);
  o[6] = u / 7 + v % 13 + v / sizes.a;
  o[7] = __sad(v, (int)u, 3u);
  o[8] = __dp4a(v, (int)u, 5);
  o[9] = __vadd2(u, (unsigned)v);
  o[10] = __hadd(v, 3);
  o[11] = (u & 0xf0f0u) | (~(unsigned)v ^ (unsigned)shift);
  o[12] = sizes.c[shift & 3];
  o[13] = abs(v) + min(v, 3) + max(u, 3u);
  o[14] = (unsigned)(signed char)v + (unsigned short)u;
  o[15] = __mul24(v, 3);
  const long long w = (long long)v * 1234567890123LL;
  z[4 * i] = __mul64hi(w, 987654321987LL) + __popcll(w) + __clzll(w);
  z[4 * i + 1] = w / 7 + w % sizes.b;
  z[4 * i + 2] = (w >> shift) + (w << 3);
  z[4 * i + 3] = min(w, (long long)v * u);
}

extern "C" __global__ void collectives(const int* x, unsigned* out, double* wide) {
  const int t = threadIdx.x, v = x[t];
  unsigned* o = out + 16 * t;
  int all = 0;
  o[0] = __any_sync(~0u, v > 90);
  o[1] = __all_sync(~0u, v >= 0);
  o[2] = __ballot_sync(~0u, v & 1);
  o[3] = __reduce_add_sync(~0u, v);
  o[4] = __reduce_min_sync(~0u, v);
  o[5] = __reduce_max_sync(~0u, (unsigned)v);
  o[6] = __reduce_xor_sync(~0u, (unsigned)v);
  o[7] = __reduce_and_sync(~0u, (unsigned)v | 16u);
  o[8] = __match_any_sync(~0u, v & 3);
  o[9] = __match_all_sync(~0u, v & 0, &all) + all;
  o[10] = __syncthreads_count(v & 1);
  o[11] = __syncthreads_and(v >= 0) + 2 * __syncthreads_or(v > 1000);
  o[12] = __shfl_up_sync(~0u, v, 3, 16);
  o[13] = __shfl_down_sync(~0u, v, 5, 8);
  o[14] = __shfl_sync(~0u, v, 13, 8);
  o[15] = __match_any_sync(~0u, (long long)(v & 1) << 40);
  wide[t] = __shfl_xor_sync(~0u, (double)v, 9);
}

extern "C" __global__ void atomics(int* i, unsigned* u, float* f, double* d, unsigned long long* q,
                                   unsigned* olds) {
  __shared__ int count[4];
  __shared__ float sum;
  const int t = threadIdx.x;
  if (t < 4) count[t] = 0;
  if (t == 0) sum = 0.f;
  __syncthreads();
  atomicAdd(&count[t & 3], t);
  atomicAdd(&sum, 0.5f);
  olds[t] = atomicAdd(u, 1u);
  atomicMin(i, t - 20);
  atomicMax(i + 1, t);
  atomicAnd(i + 2, ~(1 << t % 32));
  atomicOr(i + 3, 1 << t % 32);
  atomicXor(i + 4, 1 << t % 16);
  atomicInc(u + 1, 9u);
  atomicDec(u + 2, 9u);
  atomicAdd(f, 0.25f);
  atomicAdd(d, 0.125);
  atomicAdd(q, 1ull << 33);
  atomicMax(q + 1, (unsigned long long)t << 35);
  unsigned seen = *(volatile unsigned*)(u + 3), old;
  do {
    old = seen;
    seen = atomicCAS(u + 3, old, old + 2u);
  } while (seen != old);
  __syncthreads();
  if (t < 4) i[5 + t] = atomicExch(&count[t], -1);
  if (t == 0) f[1] = sum;
}

__device__ unsigned launches = 3;
__device__ float weights[4] = {1.f, 2.f, 3.f, 4.f};
extern "C" __global__ void generic_and_switch(float* g, int c) {
  __shared__ float s[32];
  const int t = threadIdx.x;
  s[t] = t;
  __syncthreads();
  float local[4] = {10.f, 20.f, 30.f, (float)c};
  // One load through a pointer to any space.
  const float* p = t < 8 ? g + 64 : t < 16 ? s : t < 24 ? weights : local;
  g[t] = p[(t + c) & 3];
  switch (t) {
    case 0:
      g[32] = 1.f;
      break;
    case 1:
      g[33] = 5.f;
      break;
    case 2:
      g[34] = 6.f * c;
      break;
    case 3:
      g[35] = sqrtf(c);
      break;
    case 4:
      g[36] = 3.f;
      break;
    case 5:
      g[37] = g[64] * 3.f;
      break;
    case 6:
      g[38] = 7.f;
      break;
    case 7:
      g[39] = __popc(c);
      break;
    default:
      g[32 + t] = -1.f;
  }
  if (t == 31) launches += 1;
  assert(c < 100);
}

// Loads and stores with cache hints and memory orders.
extern "C" __global__ void hints(const float4* g, float4* o, unsigned* flag) {
  const int i = threadIdx.x;
  float r;
  unsigned seen;
  asm volatile("ld.global.L1::no_allocate.f32 %0, [%1];" : "=f"(r) : "l"(g));
  asm volatile("prefetch.global.L2 [%0];" ::"l"(g));
  o[i] = __ldcs(g + i);
  __stcs(o + i + 32, __ldcg(g + i));
  __stwt(o + i + 64, __ldlu(g + 1));
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(1) : "memory");
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(seen) : "memory");
  __threadfence_block();
  __threadfence_system();
  __nanosleep(10);
  o[i + 96] = make_float4(r, seen, 0.f, 0.f);
}
