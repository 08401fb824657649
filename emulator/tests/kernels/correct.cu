// Kernels without a fault: no check may report anything, whatever the schedule.
#include "ptx.cuh"

// Sums n4 float4: a grid-stride loop, shuffles, one shared slot for each warp, and one atomic
// addition for each block.
extern "C" __global__ void __launch_bounds__(256)
    reduce_sum(const float4* __restrict__ x, float* __restrict__ out, int n4) {
  __shared__ float partial[32];
  float s = 0.f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n4; i += gridDim.x * blockDim.x) {
    const float4 v = __ldg(x + i);
    s += (v.x + v.y) + (v.z + v.w);
  }
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x < 32) {
    s = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.f;
    for (int o = 16; o; o >>= 1) s += __shfl_down_sync(~0u, s, o);
    if (threadIdx.x == 0) atomicAdd(out, s);
  }
}

// Sums n floats without float atomics: the block that finishes last adds the partial sums in their
// order.
extern "C" __global__ void __launch_bounds__(128)
    reduce_last_block(const float* __restrict__ x, float* partial, unsigned* done, float* out,
                      int n) {
  __shared__ float warps[4];
  __shared__ bool last;
  float s = 0.f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = (warps[0] + warps[1]) + (warps[2] + warps[3]);
    __threadfence();
    last = atomicAdd(done, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    float all = 0.f;
    for (int b = 0; b < gridDim.x; b++) all += __ldcg(partial + b);
    *out = all;
  }
}

// The kernels of one pass of a stable radix sort: histogram, exclusive scan in one block, scatter.
constexpr int DIGITS = 256, TILE = 1024;
extern "C" __global__ void __launch_bounds__(256)
    radix_histogram(const uint32_t* __restrict__ keys, int n, int shift,
                    uint32_t* __restrict__ histogram) {
  __shared__ uint32_t count[DIGITS];
  count[threadIdx.x] = 0;
  __syncthreads();
  for (int j = 0; j < 4; j++) {
    const int i = blockIdx.x * TILE + j * 256 + threadIdx.x;
    if (i < n) atomicAdd(&count[(keys[i] >> shift) & (DIGITS - 1)], 1u);
  }
  __syncthreads();
  histogram[threadIdx.x * gridDim.x + blockIdx.x] = count[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(1024) scan_exclusive(uint32_t* __restrict__ v, int n) {
  __shared__ uint32_t sums[32];
  __shared__ uint32_t carry;
  const int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
  if (threadIdx.x == 0) carry = 0;
  __syncthreads();
  for (int base = 0; base < n; base += blockDim.x) {
    const int i = base + threadIdx.x;
    const uint32_t x = i < n ? v[i] : 0;
    uint32_t s = x;
    for (int o = 1; o < 32; o <<= 1) {
      const uint32_t y = __shfl_up_sync(~0u, s, o);
      if (lane >= o) s += y;
    }
    if (lane == 31) sums[w] = s;
    __syncthreads();
    if (w == 0) {
      uint32_t q = lane < (int)(blockDim.x >> 5) ? sums[lane] : 0;
      for (int o = 1; o < 32; o <<= 1) {
        const uint32_t y = __shfl_up_sync(~0u, q, o);
        if (lane >= o) q += y;
      }
      sums[lane] = q;
    }
    __syncthreads();
    const uint32_t before = carry + (w ? sums[w - 1] : 0u) + s - x, total = sums[31];
    if (i < n) v[i] = before;
    __syncthreads();
    if (threadIdx.x == 0) carry += total;  // The next read is two barriers away.
  }
}
extern "C" __global__ void __launch_bounds__(256)
    radix_scatter(const uint32_t* __restrict__ keys_in, const uint32_t* __restrict__ values_in,
                  uint32_t* __restrict__ keys_out, uint32_t* __restrict__ values_out, int n,
                  int shift, const uint32_t* __restrict__ base) {
  __shared__ uint32_t offset[DIGITS];
  __shared__ uint32_t count[8][DIGITS];
  const int tid = threadIdx.x, w = tid >> 5;
  offset[tid] = base[tid * gridDim.x + blockIdx.x];
  for (int j = 0; j < 4; j++) {
    for (int i = tid; i < 8 * DIGITS; i += 256) count[i / DIGITS][i % DIGITS] = 0;
    __syncthreads();
    const int i = blockIdx.x * TILE + j * 256 + tid;
    const bool in = i < n;
    const uint32_t key = in ? keys_in[i] : ~0u, digit = (key >> shift) & (DIGITS - 1);
    const unsigned active = __ballot_sync(~0u, in);
    unsigned rank = 0;
    if (in) {
      const unsigned peers = __match_any_sync(active, digit);
      rank = __popc(peers & lanemask_lt());
      if (rank == 0) count[w][digit] = __popc(peers);
    }
    __syncthreads();
    uint32_t position = 0;
    if (in) {
      position = offset[digit] + rank;
      for (int q = 0; q < w; q++) position += count[q][digit];
    }
    __syncthreads();
    uint32_t all = 0;
    for (int q = 0; q < 8; q++) all += count[q][tid];
    offset[tid] += all;
    if (in) {
      keys_out[position] = key;
      values_out[position] = values_in[i];
    }
    __syncthreads();
  }
}

// One warp for each run of equal keys sums the rows that its positions name.
extern "C" __global__ void __launch_bounds__(256)
    segment_sum(const uint32_t* __restrict__ keys, const uint32_t* __restrict__ positions, int n,
                const float4* __restrict__ rows, float4* __restrict__ out, int d4) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) >> 5, lane = threadIdx.x & 31;
  if (i >= n) return;
  const uint32_t key = keys[i];
  if (i > 0 && keys[i - 1] == key) return;
  for (int c = lane; c < d4; c += 32) {
    float4 a = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int j = i; j < n && keys[j] == key; j++) {
      const float4 g = __ldg(rows + (size_t)positions[j] * d4 + c);
      a.x += g.x, a.y += g.y, a.z += g.z, a.w += g.w;
    }
    out[(size_t)key * d4 + c] = a;
  }
}

// Computes the strict lower triangle of X X^T, where X is [F][D] in bf16, F <= 32 and D is a
// multiple of 16, with cp.async, ldmatrix and mma.
extern "C" __global__ void __launch_bounds__(128)
    interact_bf16(const __nv_bfloat16* __restrict__ x, float* __restrict__ out, int F, int D) {
  extern __shared__ __align__(16) __nv_bfloat16 tile[];
  const int pitch = D + 8, tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2,
            t = lane & 3;
  x += (size_t)blockIdx.x * F * D;
  const int chunks = D / 8;
  for (int i = tid; i < 32 * chunks; i += 128) {
    const int r = i / chunks, c = i % chunks;
    cp_async16(tile + r * pitch + c * 8, x + (r < F ? (size_t)r * D + c * 8 : 0), r < F);
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  const int m0 = (warp & 1) * 16, n0 = (warp >> 1) * 16;
  float d[2][4] = {};
  for (int k = 0; k < D; k += 16) {
    uint32_t a[4], b[4];
    ldmatrix_x4(a, tile + (m0 + (lane & 15)) * pitch + k + (lane >> 4) * 8);
    ldmatrix_x4(b, tile + (n0 + (lane >> 4) * 8 + (lane & 7)) * pitch + k + ((lane >> 3) & 1) * 8);
    const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
    mma_bf16(d[0], a, b0);
    mma_bf16(d[1], a, b1);
  }
  out += (size_t)blockIdx.x * (F * (F - 1) / 2);
  for (int j = 0; j < 2; j++)
    for (int c = 0; c < 4; c++) {
      const int r = m0 + g + (c >> 1) * 8, q = n0 + j * 8 + 2 * t + (c & 1);
      if (r < F && q < r) out[r * (r - 1) / 2 + q] = d[j][c];
    }
}

// Computes X X^T of 16 rows in tf32, with one warp for each sample, straight from global memory.
extern "C" __global__ void __launch_bounds__(32)
    gram_tf32(const float* __restrict__ x, float* __restrict__ out, int D) {
  const int lane = threadIdx.x, g = lane >> 2, t = lane & 3;
  x += (size_t)blockIdx.x * 16 * D;
  float d[2][4] = {};
  for (int k = 0; k < D; k += 8) {
    const uint32_t a[4] = {to_tf32(x[g * D + k + t]), to_tf32(x[(g + 8) * D + k + t]),
                           to_tf32(x[g * D + k + t + 4]), to_tf32(x[(g + 8) * D + k + t + 4])};
    const uint32_t b0[2] = {a[0], a[2]}, b1[2] = {a[1], a[3]};
    mma_tf32(d[0], a, b0);
    mma_tf32(d[1], a, b1);
  }
  for (int j = 0; j < 2; j++)
    for (int c = 0; c < 4; c++)
      out[(size_t)blockIdx.x * 256 + (g + (c >> 1) * 8) * 16 + j * 8 + 2 * t + (c & 1)] = d[j][c];
}

// Sums tiles of 128 floats in a pipeline of three stages: a tile is copied two tiles ahead.
extern "C" __global__ void __launch_bounds__(128)
    pipeline_sum(const float* __restrict__ x, float* __restrict__ out, int tiles) {
  __shared__ float stage[3][128];
  const int tid = threadIdx.x;
  x += (size_t)blockIdx.x * tiles * 128;
  for (int k = 0; k < 2; k++) {
    if (k < tiles) cp_async4(&stage[k][tid], x + k * 128 + tid);
    cp_async_commit();
  }
  float s = 0.f;
  for (int k = 0; k < tiles; k++) {
    cp_async_wait<1>();
    // After this all parts of tile k are there, and nobody reads tile k - 1 any more.
    __syncthreads();
    if (k + 2 < tiles) cp_async4(&stage[(k + 2) % 3][tid], x + (k + 2) * 128 + tid);
    cp_async_commit();
    s += stage[k % 3][tid ^ 1];
  }
  out[blockIdx.x * 128 + tid] = s;
}

// Each lane reads what its neighbour wrote.
extern "C" __global__ void exchange(const float* __restrict__ x, float* __restrict__ out) {
  __shared__ float s[64];
  const int t = threadIdx.x, n = (t & 32) + ((t + 4) & 31);
  s[t] = x[t];
  __syncwarp();
  out[t] = s[n] + 1.f;
  __syncwarp();
  s[n] = out[t];
  __syncwarp();
  out[t] += s[t];
}

// Neighbouring lanes write the two halves of one word.
extern "C" __global__ void halves(const float* __restrict__ x, __nv_bfloat16* __restrict__ out) {
  __shared__ __nv_bfloat16 s[64];
  s[threadIdx.x] = __float2bfloat16(x[threadIdx.x]);
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}

// Producers fill a buffer for consumers. Named barrier 1 says that it is full, 2 that it is empty.
extern "C" __global__ void __launch_bounds__(128)
    producer_consumer(const int* __restrict__ x, int* __restrict__ out, int rounds) {
  __shared__ int buffer[64];
  const int t = threadIdx.x & 63;
  if (threadIdx.x < 64) {
    for (int k = 0; k < rounds; k++) {
      if (k > 0) asm volatile("bar.sync 2, 128;" ::: "memory");
      buffer[t] = x[k * 64 + t];
      asm volatile("bar.arrive 1, 128;" ::: "memory");
    }
  } else {
    int sum = 0;
    for (int k = 0; k < rounds; k++) {
      asm volatile("bar.sync 1, 128;" ::: "memory");
      sum += buffer[63 - t];
      if (k + 1 < rounds) asm volatile("bar.arrive 2, 128;" ::: "memory");
    }
    out[t] = sum;
  }
}

// Some threads leave early, and the others shuffle; the last warp is partial.
extern "C" __global__ void leave_early(const int* __restrict__ x, int* __restrict__ out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned active = __ballot_sync(~0u, i < n);
  if (i >= n) return;
  int s = x[i];
  for (int o = 1; o < 32; o <<= 1) {
    const int y = __shfl_up_sync(active, s, o);
    if ((threadIdx.x & 31) >= o) s += y;
  }
  out[i] = s;
}

// Groups of 8 lanes each have a mask of their own, and a loop of their own length.
extern "C" __global__ void groups_of_eight(const int* __restrict__ x, int* __restrict__ out) {
  __shared__ int s[64];
  const int t = threadIdx.x, lane = t & 31, group = lane / 8;
  const unsigned mask = 0xffu << (group * 8);
  int v = x[t];
  for (int k = 0; k <= group; k++) {
    s[t] = v;
    __syncwarp(mask);
    v += s[t ^ 7];
    __syncwarp(mask);
  }
  out[t] = v;
}

// Uses device functions that are not inlined, constants, local arrays and a struct by value.
struct Shape {
  int scale;
  float bias;
  long long rows[3];
};
__constant__ float table[4] = {1.f, 2.f, 4.f, 8.f};
__noinline__ __device__ float polynomial(float x, int n) {
  float s = 0.f;
  for (int i = 0; i < n; i++) s = s * x + table[i & 3];
  return s;
}
__noinline__ __device__ float4 scaled(float4 v, const Shape& shape) {
  return make_float4(v.x * shape.scale, v.y + shape.bias, v.z + shape.rows[1], v.w);
}
extern "C" __global__ void calls(const float* __restrict__ x, float4* __restrict__ out, Shape shape,
                                 int n) {
  const int i = threadIdx.x;
  float local[8];
  for (int k = 0; k < 8; k++) local[k] = x[i] * k;
  const float p = polynomial(x[i], i % 5);
  out[i] = scaled(make_float4(p, p, local[(i + n) & 7], x[i]), shape);
}
