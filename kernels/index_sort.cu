// index_sort.cu: the order of a batch's ids by the rows that they name.
//
// Computes     linear rows of all counted ids, sorted stably with their positions; where each row's
//              occurrences begin; counted ids of each bag
// Rust         src/ops/index_sort.rs, src/backend/cuda/index_sort.rs
// Entries      index_sort_rows_{i32,i64}, index_sort_{pass,segments}_{large,small}_{u32,u64}
// Algorithm    1. `rows`: a group of lanes per bag writes the key of each id, its linear row, and
//                 counts the digits of all passes at once, so that no pass needs a histogram of its
//                 own. Padding and bad ids get a key behind all rows, so that the host knows every
//                 later size. Wrong offsets leave no position without a key. Slack is sorted like
//                 padding.
//              2. `pass` is one pass of a least-significant-digit radix sort in a single launch. A
//                 tile ranks its keys by votes on the bits of their digits, gets the counts of the
//                 tiles before it by decoupled look-back, reorders its keys in shared memory, and
//                 writes runs of equal digits, coalesced. Three launches per pass would read the
//                 keys twice, and at the sizes of batches latency is what counts.
//              3. `segments`: a row begins where a key differs from the one before it. The same
//                 look-back numbers the rows; a warp looks back, one lane per tile.
//              4. Few keys are cut into smaller tiles, so that more multiprocessors have work. Keys
//                 have as many digits as the tables have rows, and 32 bits where these suffice,
//                 since each pass and each byte costs time.
// Mapping      pass, tile of 8 warps x 32 lanes x kItems keys (large: kItems 8):
//                keys of the tile   | warp 0 | warp 1 | ... | warp 7 |
//                keys of a warp     | step 0: lanes 0 .. 31 | step 1: lanes 0 .. 31 | ... |
//                counts             thread t -> digit t: sum over warps, look-back over tiles
//                shared memory      | digit 0 | digit 1 | ... |   slot s -> output place[digit] + s
//              rows: group of p.lanes lanes -> bag; lane l -> ids l, l + p.lanes, .. of the bag
// Launch       rows: grid (enough for the bags, at most 528), block 256; pass, segments: a block of
//              256 for each tile of 2048 ids, or of 1024
// Bytes        ids read once; each pass reads and writes key and position: 16 bytes an id (24 with
//              64-bit keys); 2 KB of status words a tile
// Requires     the status words of the tiles, the tickets and the histograms are zero before
//              `rows`; at most 2^32 - 2 ids
// Numerics     integers: the same results for any schedule
// Measured     NVIDIA H200, 2026-11-27: 28 us for 53,248 ids, 155 us for 1.7 million; far from what
//              memory allows

#include "common/bags.cuh"
#include "common/reduce.cuh"
#include "common/scan.cuh"
#include "params/index_sort.cuh"

constexpr int kWarps = kThreads / 32;
static_assert(kThreads == kDigits, "a thread takes care of a digit");

template <typename K>
__device__ __forceinline__ uint32_t digit_of(K key, uint32_t pass, uint32_t digit_bits) {
  return uint32_t(key >> (pass * digit_bits)) & ((1u << digit_bits) - 1);
}

// Returns the mask of the warp's lanes below the calling one.
__device__ __forceinline__ uint32_t lanes_below() { return (1u << (threadIdx.x % 32)) - 1; }

// Returns the mask of the lanes that have the same digit as the calling one, or that have no key if
// it has none. A warp votes on each bit: votes overlap in the pipeline, unlike __match_any_sync.
__device__ __forceinline__ uint32_t lanes_alike(uint32_t digit, bool exists) {
  const uint32_t existing = __ballot_sync(kWarp, exists);
  uint32_t alike = exists ? existing : ~existing;
#pragma unroll
  for (uint32_t bit = 0; bit < kMaxDigitBits; ++bit) {
    const bool is_set = digit >> bit & 1;
    const uint32_t set = __ballot_sync(kWarp, is_set);
    alike &= is_set ? set : ~set;
  }
  return alike;
}

// Returns the bounds of a bag, stretched so that the bags cover every position even if the first
// offset is not 0 or the last one is not the number of ids.
__device__ __forceinline__ Bounds covering_bounds(const Bags& bags, uint64_t bag,
                                                  uint64_t num_indices) {
  const int64_t start = offset_at(bags, bag), end = offset_at(bags, bag + 1);
  const auto clamped = [&](int64_t offset) {
    return offset < 0 ? 0 : min(uint64_t(offset), num_indices);
  };
  return {bag == 0 ? 0 : clamped(start), bag + 1 == bags.num_bags ? num_indices : clamped(end)};
}

// Writes the key of every id, its linear row, and counts digits.
template <typename I>
__device__ __forceinline__ void name_rows(const IndexSortRows<I>& p) {
  __shared__ uint32_t counts[kMaxPasses * kDigits];
  for (uint32_t k = threadIdx.x; k < p.passes * kDigits; k += kThreads) counts[k] = 0;
  __syncthreads();
  const uint32_t lane = threadIdx.x % p.lanes;
  const uint64_t threads = uint64_t(gridDim.x) * kThreads,
                 thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x;
  const uint64_t num_indices = used_indices(p.bags);
  const auto store_key = [&](uint64_t position, uint64_t key) {
    if (p.key_bytes == 8) {
      static_cast<uint64_t*>(p.keys)[position] = key;
    } else {
      static_cast<uint32_t*>(p.keys)[position] = uint32_t(key);
    }
  };
  // Slack gets the key of padding.
#pragma unroll 1
  for (uint64_t position = num_indices + thread; position < p.bags.num_indices; position += threads)
    store_key(position, p.end_key);
  if (thread < p.passes)
    atomicAdd(&counts[thread * kDigits + digit_of(p.end_key, uint32_t(thread), p.digit_bits)],
              uint32_t(p.bags.num_indices - num_indices));
  // The groups of a warp stay converged, and those behind the last bag have none: votes with a
  // partial mask run once for each group.
#pragma unroll 1
  for (uint64_t first = thread / 32 * 32 / p.lanes; first < p.bags.num_bags;
       first += threads / p.lanes) {
    const uint64_t bag = first + threadIdx.x % 32 / p.lanes;
    uint32_t rows = 0;
    bool bad = false;
    if (bag < p.bags.num_bags) {
      const Feature& feature = p.features[bag / p.batch_size];
      const Bounds bounds = covering_bounds(p.bags, bag, num_indices);
      const uint64_t first_row = p.tables[feature.table].first_row;
      bad = has_bad_bounds(p.bags, bag);
#pragma unroll 1
      for (uint64_t position = bounds.start + lane; position < bounds.end; position += p.lanes) {
        const int64_t row = row_of(p.indices[position], feature, bad);
        const uint64_t key = row == kNoRow ? p.end_key : first_row + row;
        rows += row != kNoRow;
        p.bag_of[position] = uint32_t(bag);
        store_key(position, key);
#pragma unroll 1
        for (uint32_t pass = 0; pass < p.passes; ++pass)
          atomicAdd(&counts[pass * kDigits + digit_of(key, pass, p.digit_bits)], 1u);
      }
    }
    rows = group_sum(rows, p.lanes);
    bad = group_any(bad, p.lanes);
    if (lane == 0 && bag < p.bags.num_bags) {
      p.bag_lengths[bag] = rows;
      if (bad) note_faults(p.features[bag / p.batch_size], p.indices, p.bags, bag, p.status);
    }
  }
  __syncthreads();
  for (uint32_t k = threadIdx.x; k < p.passes * kDigits; k += kThreads) {
    if (counts[k] > 0) atomicAdd(&p.histograms[k], counts[k]);
  }
}

#define INSTANTIATE_ROWS(I)                                             \
  extern "C" __global__ void __launch_bounds__(kThreads, 6)             \
      index_sort_rows_##I(const __grid_constant__ IndexSortRows<I> p) { \
    name_rows(p);                                                       \
  }
INSTANTIATE_ROWS(i32)
INSTANTIATE_ROWS(i64)

// Makes one stable pass of the sort, by digit number `pass`. `positions` is null in the first pass,
// in which the position of a key is its index.
template <int kItems, typename K>
__device__ __forceinline__ void sort_by_digit(const IndexSortPass<K>& p) {
  constexpr int kTile = kThreads * kItems;
  __shared__ uint32_t counts[kWarps][kDigits];
  // The output index of the tile's first key of each digit, minus its slot.
  __shared__ uint32_t place[kDigits];
  __shared__ K ordered_keys[kTile];
  __shared__ uint32_t ordered_positions[kTile];
  const uint32_t tile = take_tile(p.tickets + p.pass), warp = threadIdx.x / 32,
                 lane = threadIdx.x % 32, thread = threadIdx.x;
  const uint64_t tile_start = uint64_t(tile) * kTile;
  const uint32_t tile_size = uint32_t(min(uint64_t(kTile), p.num_keys - tile_start));

  // A warp loads a contiguous run of keys, coalesced: warps, steps and lanes follow the order of
  // the keys, which makes the ranks stable.
  const uint32_t first = warp * 32 * kItems + lane;
  K key[kItems];
  uint32_t position[kItems], within[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint32_t k = first + 32 * j;
    key[j] = k < tile_size ? p.keys[tile_start + k] : 0;
    position[j] = k >= tile_size ? 0
                  : p.positions  ? p.positions[tile_start + k]
                                 : uint32_t(tile_start + k);
  }
  for (uint32_t w = 0; w < kWarps; ++w) counts[w][thread] = 0;
  __syncthreads();
  uint32_t peers[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    peers[j] = lanes_alike(digit_of(key[j], p.pass, p.digit_bits), first + 32 * j < tile_size);
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    // The lowest lane with a digit counts all lanes with it, and broadcasts the number of earlier
    // keys of this digit.
    const uint32_t leader = __ffs(peers[j]) - 1;
    uint32_t before = 0;
    if (lane == leader && first + 32 * j < tile_size)
      before = atomicAdd(&counts[warp][digit_of(key[j], p.pass, p.digit_bits)], __popc(peers[j]));
    within[j] = __shfl_sync(kWarp, before, leader) + __popc(peers[j] & lanes_below());
  }
  __syncthreads();

  // Up to the next barrier, thread t works on digit t.
  uint32_t count = 0;
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) {
    const uint32_t of_warp = counts[w][thread];
    counts[w][thread] = count;
    count += of_warp;
  }
  TileWord* word = p.words + uint64_t(tile) * kDigits + thread;
  publish(word, p.pass, tile == 0, count);
  // One prefix sum computes two: over all keys of the batch in the high half, over those of the
  // tile in the low half.
  const uint64_t smaller = sum_of_threads_before<kThreads>(
      uint64_t(p.histograms[p.pass * kDigits + thread]) << 32 | count);
  const uint32_t start = uint32_t(smaller);
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) counts[w][thread] += start;
  const uint32_t in_tiles_before = sum_of_tiles_before(p.words + thread, tile, kDigits, p.pass);
  if (tile > 0) publish(word, p.pass, true, in_tiles_before + count);
  place[thread] = uint32_t(smaller >> 32) + in_tiles_before - start;
  __syncthreads();

#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    if (first + 32 * j >= tile_size) continue;
    const uint32_t slot = counts[warp][digit_of(key[j], p.pass, p.digit_bits)] + within[j];
    ordered_keys[slot] = key[j];
    ordered_positions[slot] = position[j];
  }
  __syncthreads();
  for (uint32_t slot = thread; slot < tile_size; slot += kThreads) {
    const K moved = ordered_keys[slot];
    const uint32_t to = place[digit_of(moved, p.pass, p.digit_bits)] + slot;
    // Wrong offsets may let bags overlap, so that ids are counted twice.
    if (to >= p.num_keys) continue;
    p.keys_out[to] = moved;
    p.positions_out[to] = ordered_positions[slot];
  }
}

// Numbers the rows among sorted keys, and looks up the bags of their occurrences unless `bags` is
// null. One virtual key `end_key` follows the stored ones: the first key equal to `end_key` ends
// the last segment.
template <int kItems, typename K>
__device__ __forceinline__ void number_rows(const IndexSortSegments<K>& p) {
  // Loading the pointers first keeps fewer registers live in the stores at the end.
  uint64_t* const rows = p.rows;
  uint32_t *const segments = p.segments, *const counts = p.counts;
  __shared__ uint32_t rows_of_tiles_before;
  const uint32_t tile = take_tile(p.ticket);
  const uint64_t first =
      uint64_t(tile) * (kThreads * kItems) + threadIdx.x / 32 * (32 * kItems) + threadIdx.x % 32;
  const auto key_at = [&](uint64_t k) { return k < p.num_keys ? p.keys[k] : K(p.end_key); };
  K key[kItems];
  bool begins[kItems];
  uint32_t number[kItems], of_warp = 0;
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint64_t k = first + 32 * j;
    key[j] = key_at(k);
    begins[j] = k <= p.num_keys && (k == 0 || key_at(k - 1) != key[j]);
    const uint32_t beginning = __ballot_sync(kWarp, begins[j] && key[j] != K(p.end_key));
    number[j] = of_warp + __popc(beginning & lanes_below());
    of_warp += __popc(beginning);
  }
  if (p.bags) {
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const uint64_t k = first + 32 * j;
      if (key[j] == K(p.end_key)) continue;
      const uint32_t position = p.positions[k];
      if (position < p.num_keys) p.bags[k] = p.bag_of[position];
    }
  }
  // The last lane of a warp contributes the warp's sum.
  const uint32_t before = sum_of_threads_before<kThreads>(threadIdx.x % 32 == 31 ? of_warp : 0);
  if (threadIdx.x >= kThreads - 32) {
    const bool is_last = threadIdx.x == kThreads - 1;
    const uint32_t of_tile = before + of_warp;
    if (is_last) publish(p.words + tile, 0, tile == 0, of_tile);
    const uint32_t of_tiles_before = sum_of_tiles_before(p.words, tile, 0);
    if (is_last && tile > 0) publish(p.words + tile, 0, true, of_tiles_before + of_tile);
    if (is_last) rows_of_tiles_before = of_tiles_before;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint64_t k = first + 32 * j;
    const uint32_t row = rows_of_tiles_before + before + number[j];
    if (begins[j]) segments[row] = uint32_t(k);
    if (key[j] != K(p.end_key)) {
      if (begins[j]) rows[row] = key[j];
    } else if (begins[j]) {
      counts[0] = uint32_t(k);
      counts[1] = row;
    }
  }
}

#define INSTANTIATE_KEYS(K, size, kItems)                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads, 2)                                  \
      index_sort_pass_##size##_##K(const __grid_constant__ IndexSortPass<K##_t> p) {         \
    sort_by_digit<kItems>(p);                                                                \
  }                                                                                          \
  extern "C" __global__ void __launch_bounds__(kThreads)                                     \
      index_sort_segments_##size##_##K(const __grid_constant__ IndexSortSegments<K##_t> p) { \
    number_rows<kItems>(p);                                                                  \
  }
using u32_t = uint32_t;
using u64_t = uint64_t;
INSTANTIATE_KEYS(u32, large, kLarge)
INSTANTIATE_KEYS(u32, small, kSmall)
INSTANTIATE_KEYS(u64, large, kLarge)
INSTANTIATE_KEYS(u64, small, kSmall)
