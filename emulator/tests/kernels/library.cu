// Kernels that use NVIDIA's headers, which were not written with the emulator in mind.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cuda/atomic>

namespace cg = cooperative_groups;

extern "C" __global__ void __launch_bounds__(128)
    block_sort(const unsigned* keys, const unsigned* values, unsigned* sorted_keys,
               unsigned* sorted_values) {
  using Sort = cub::BlockRadixSort<unsigned, 128, 4, unsigned>;
  __shared__ typename Sort::TempStorage room;
  unsigned k[4], v[4];
  for (int i = 0; i < 4; i++) k[i] = keys[threadIdx.x * 4 + i], v[i] = values[threadIdx.x * 4 + i];
  Sort(room).Sort(k, v);
  for (int i = 0; i < 4; i++)
    sorted_keys[threadIdx.x * 4 + i] = k[i], sorted_values[threadIdx.x * 4 + i] = v[i];
}

extern "C" __global__ void __launch_bounds__(128)
    block_sums(const int* x, int* prefix, int* total) {
  using Scan = cub::BlockScan<int, 128>;
  using Reduce = cub::BlockReduce<int, 128>;
  __shared__ union {
    typename Scan::TempStorage scan;
    typename Reduce::TempStorage reduce;
  } room;
  const int i = blockIdx.x * 128 + threadIdx.x;
  int before;
  Scan(room.scan).ExclusiveSum(x[i], before);
  prefix[i] = before;
  __syncthreads();
  const int all = Reduce(room.reduce).Sum(x[i]);
  if (threadIdx.x == 0) total[blockIdx.x] = all;
}

// Sums over warps, over groups of eight lanes, and over the lanes that a branch leaves.
extern "C" __global__ void groups(const int* x, int* out) {
  const auto block = cg::this_thread_block();
  const auto warp = cg::tiled_partition<32>(block);
  const auto eight = cg::tiled_partition<8>(warp);
  const int i = block.thread_rank(), v = x[i];
  out[i] = cg::reduce(warp, v, cg::plus<int>());
  out[i + 128] = cg::inclusive_scan(eight, v);
  if (v % 3 == 0) {
    const auto some = cg::coalesced_threads();
    out[i + 256] = cg::reduce(some, v, cg::plus<int>());
    some.sync();
  }
  block.sync();
  out[i + 384] = eight.shfl_xor(v, 5);
}

// Each block adds to the result of the block before it: a chain of acquires and releases.
extern "C" __global__ void chain(const int* x, int* carry, unsigned* turn, int* out) {
  cuda::atomic_ref<unsigned, cuda::thread_scope_device> at(*turn);
  if (threadIdx.x == 0) {
    while (at.load(cuda::std::memory_order_acquire) != blockIdx.x) {
    }
    out[blockIdx.x] = *carry;
    *carry += x[blockIdx.x];
    at.store(blockIdx.x + 1, cuda::std::memory_order_release);
  }
}

// A barrier of the whole grid, for launches in which all blocks are resident.
extern "C" __global__ void across_blocks(const int* x, int* room, unsigned* arrived, int* out) {
  room[blockIdx.x * blockDim.x + threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x] * 2;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1);
    while (*reinterpret_cast<volatile unsigned*>(arrived) != gridDim.x) {
    }
    __threadfence();
  }
  __syncthreads();
  const int other = (blockIdx.x + 1) % gridDim.x;
  out[blockIdx.x * blockDim.x + threadIdx.x] = room[other * blockDim.x + threadIdx.x];
}
