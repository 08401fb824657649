// Philox 4x32-10, the counter-based random generator of Salmon et al. (SC'11). It returns the same
// numbers as src/philox.rs.
#pragma once

#include <stdint.h>

__device__ __forceinline__ uint4 philox4x32(uint2 key, uint4 counter) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(counter.x) * 0xd2511f53u, p1 = uint64_t(counter.z) * 0xcd9e8d57u;
    counter = make_uint4(uint32_t(p1 >> 32) ^ counter.y ^ key.x, uint32_t(p1),
                         uint32_t(p0 >> 32) ^ counter.w ^ key.y, uint32_t(p0));
    key.x += 0x9e3779b9u;
    key.y += 0xbb67ae85u;
  }
  return counter;
}
