// index_sort.cu: the order of a batch's ids by the rows that they name.
//
// Computes     linear rows of all counted ids, sorted stably with their positions; where each row's
//              occurrences begin; counted ids of each bag
// Rust         src/ops/index_sort.rs, src/backend/cuda/index_sort.rs
// Entries      index_sort_rows_{i32,i64}, index_sort_{pass,segments}_{large,small}_{u32,u64}
// Algorithm    `rows`: a group of lanes per bag writes the key of each id, its linear row, and
//              counts the digits of all passes at once. Padding and bad ids get a key behind all
//              rows, so that every later size is known on the host; wrong offsets leave no position
//              without a key, and room behind the ids is sorted as padding is. `pass`: a pass of a
//              radix sort, least significant digit first, in one launch: a tile ranks its keys by
//              votes on the bits of their digits, learns from the tiles before it where its digits
//              begin (decoupled look-back) and writes runs of equal digits from shared memory.
//              Three launches instead would read keys twice, and at the sizes of batches latency is
//              what counts. `segments`: where a key differs from the one before it, a row begins;
//              numbered by the same look-back, a lane for each tile. Few keys are cut into smaller
//              tiles, so that more multiprocessors have some. Keys have as many digits as the
//              tables have rows, and 32 bits where these suffice.
// Launch       rows: grid (enough for the bags, at most 528), block 256; pass, segments: a block of
//              256 for each tile of 2048 ids, or of 1024
// Bytes        ids read once; each pass reads and writes key and position: 16 bytes an id (24 with
//              64-bit keys); 2 KB a tile to look back
// Requires     the words of the tiles, tickets and histograms zero before `rows`; at most 2^32 - 2
//              ids
// Numerics     integers: the same results for any schedule
// Measured     NVIDIA H200, 2026-11-27: 28 us for 53,248 ids, 155 us for 1.7 million; far from what
//              memory allows

#include "common/bags.cuh"
#include "common/reduce.cuh"
#include "common/scan.cuh"

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Keys of each thread, in large tiles and in small ones, as src/backend/cuda/index_sort.rs says.
constexpr int kLarge = 8, kSmall = 4;
constexpr uint32_t kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kMostPasses = 8;
static_assert(kThreads == kDigits, "a thread takes care of a digit");

template <typename K>
__device__ __forceinline__ uint32_t digit_of(K key, uint32_t pass, uint32_t digit_bits) {
  return uint32_t(key >> (pass * digit_bits)) & ((1u << digit_bits) - 1);
}

// The lanes of the warp below the calling one.
__device__ __forceinline__ uint32_t lanes_below() { return (1u << (threadIdx.x % 32)) - 1; }

// The lanes of a warp that have the same digit as the calling one, or no key as it has none: by a
// vote on each bit, of which a warp has several under way, unlike __match_any_sync.
__device__ __forceinline__ uint32_t lanes_alike(uint32_t digit, bool exists) {
  const uint32_t existing = __ballot_sync(kWarp, exists);
  uint32_t alike = exists ? existing : ~existing;
#pragma unroll
  for (uint32_t bit = 0; bit < kDigitBits; ++bit) {
    const bool is_set = digit >> bit & 1;
    const uint32_t set = __ballot_sync(kWarp, is_set);
    alike &= is_set ? set : ~set;
  }
  return alike;
}

// The bounds of a bag, so that every position is in one even if the first offset is not 0 or the
// last one not the number of ids.
template <typename I>
__device__ __forceinline__ Bounds covering_bounds(const I* offsets, uint64_t bag, uint64_t num_bags,
                                                  uint64_t num_indices) {
  const int64_t start = offsets[bag], end = offsets[bag + 1];
  const auto clamped = [&](int64_t offset) {
    return offset < 0 ? 0 : min(uint64_t(offset), num_indices);
  };
  return {bag == 0 ? 0 : clamped(start), bag + 1 == num_bags ? num_indices : clamped(end)};
}

#define INSTANTIATE_ROWS(I)                                                                      \
  extern "C" __global__ void __launch_bounds__(kThreads) index_sort_rows_##I(                    \
      const Feature* features, const Table* tables, const I* indices, const I* offsets,          \
      void* keys, uint32_t* bag_of, uint32_t* bag_lengths, uint32_t* histograms, Status* status, \
      uint64_t num_indices, uint64_t end_key, uint32_t num_bags, uint32_t batch_size,            \
      uint32_t lanes, uint32_t passes, uint32_t digit_bits, uint32_t key_bytes,                  \
      uint32_t has_slack) {                                                                      \
    name_rows(features, tables, indices, offsets, keys, bag_of, bag_lengths, histograms, status, \
              num_indices, end_key, num_bags, batch_size, lanes, passes, digit_bits, key_bytes,  \
              has_slack);                                                                        \
  }

template <typename I>
__device__ __forceinline__ void name_rows(const Feature* features, const Table* tables,
                                          const I* indices, const I* offsets, void* keys,
                                          uint32_t* bag_of, uint32_t* bag_lengths,
                                          uint32_t* histograms, Status* status, uint64_t room,
                                          uint64_t end_key, uint32_t num_bags, uint32_t batch_size,
                                          uint32_t lanes, uint32_t passes, uint32_t digit_bits,
                                          uint32_t key_bytes, uint32_t has_slack) {
  __shared__ uint32_t counts[kMostPasses * kDigits];
  for (uint32_t k = threadIdx.x; k < passes * kDigits; k += kThreads) counts[k] = 0;
  __syncthreads();
  const uint32_t lane = threadIdx.x % lanes;
  const uint64_t threads = uint64_t(gridDim.x) * kThreads,
                 thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x;
  const uint64_t num_indices = used_indices(offsets, num_bags, room, has_slack);
  const auto store_key = [&](uint64_t position, uint64_t key) {
    if (key_bytes == 8) {
      static_cast<uint64_t*>(keys)[position] = key;
    } else {
      static_cast<uint32_t*>(keys)[position] = uint32_t(key);
    }
  };
  // Slack is sorted as padding is.
#pragma unroll 1
  for (uint64_t position = num_indices + thread; position < room; position += threads)
    store_key(position, end_key);
  if (thread < passes)
    atomicAdd(&counts[thread * kDigits + digit_of(end_key, uint32_t(thread), digit_bits)],
              uint32_t(room - num_indices));
  // The groups of a warp keep in step, so that those behind the last bag have none: what is voted
  // on by some lanes of a warp takes as long for each.
#pragma unroll 1
  for (uint64_t first = thread / 32 * 32 / lanes; first < num_bags; first += threads / lanes) {
    const uint64_t bag = first + threadIdx.x % 32 / lanes;
    uint32_t rows = 0;
    bool bad = false;
    if (bag < num_bags) {
      const Feature& feature = features[bag / batch_size];
      const Bounds bounds = covering_bounds(offsets, bag, num_bags, num_indices);
      const uint64_t first_row = tables[feature.table].first_row;
      bad = has_bad_bounds(offsets, bag, num_bags, room, has_slack);
#pragma unroll 1
      for (uint64_t position = bounds.start + lane; position < bounds.end; position += lanes) {
        const int64_t row = row_of(indices[position], feature, bad);
        const uint64_t key = row == kNoRow ? end_key : first_row + row;
        rows += row != kNoRow;
        bag_of[position] = uint32_t(bag);
        store_key(position, key);
#pragma unroll 1
        for (uint32_t pass = 0; pass < passes; ++pass)
          atomicAdd(&counts[pass * kDigits + digit_of(key, pass, digit_bits)], 1u);
      }
    }
    rows = group_sum(rows, lanes);
    bad = group_any(bad, lanes);
    if (lane == 0 && bag < num_bags) {
      bag_lengths[bag] = rows;
      if (bad)
        note_faults(features[bag / batch_size], indices, offsets, bag, num_bags, room, has_slack,
                    status);
    }
  }
  __syncthreads();
  for (uint32_t k = threadIdx.x; k < passes * kDigits; k += kThreads) {
    if (counts[k] > 0) atomicAdd(&histograms[k], counts[k]);
  }
}
INSTANTIATE_ROWS(i32)
INSTANTIATE_ROWS(i64)

// A stable pass of the sort by the digit number `pass`. `positions` is null in the first one: there
// each key's position is its place.
template <int kItems, typename K>
__device__ __forceinline__ void sort_by_digit(const K* keys, const uint32_t* positions, K* keys_out,
                                              uint32_t* positions_out, const uint32_t* histograms,
                                              TileWord* words, uint32_t* tickets, uint64_t num_keys,
                                              uint32_t pass, uint32_t digit_bits) {
  constexpr int kTile = kThreads * kItems;
  __shared__ uint32_t counts[kWarps][kDigits];
  __shared__ uint32_t
      place[kDigits];  // of a tile's first key of a digit, less its place within the tile
  __shared__ K ordered_keys[kTile];
  __shared__ uint32_t ordered_positions[kTile];
  const uint32_t tile = take_tile(tickets + pass), warp = threadIdx.x / 32, lane = threadIdx.x % 32,
                 thread = threadIdx.x;
  const uint64_t tile_start = uint64_t(tile) * kTile;
  const uint32_t tile_size = uint32_t(min(uint64_t(kTile), num_keys - tile_start));

  // A warp takes a run of keys, so that warps, steps and lanes are in the order of the keys.
  const uint32_t first = warp * 32 * kItems + lane;
  K key[kItems];
  uint32_t position[kItems], within[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint32_t k = first + 32 * j;
    key[j] = k < tile_size ? keys[tile_start + k] : 0;
    position[j] = k >= tile_size ? 0
                  : positions    ? positions[tile_start + k]
                                 : uint32_t(tile_start + k);
  }
  for (uint32_t w = 0; w < kWarps; ++w) counts[w][thread] = 0;
  __syncthreads();
  uint32_t peers[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    peers[j] = lanes_alike(digit_of(key[j], pass, digit_bits), first + 32 * j < tile_size);
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    // The first of the lanes alike counts all of them, and tells how many keys of this digit there
    // were before.
    const uint32_t leader = __ffs(peers[j]) - 1;
    uint32_t before = 0;
    if (lane == leader && first + 32 * j < tile_size)
      before = atomicAdd(&counts[warp][digit_of(key[j], pass, digit_bits)], __popc(peers[j]));
    within[j] = __shfl_sync(kWarp, before, leader) + __popc(peers[j] & lanes_below());
  }
  __syncthreads();

  // From here to the next barrier a thread stands for the digit of its number.
  uint32_t count = 0;
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) {
    const uint32_t of_warp = counts[w][thread];
    counts[w][thread] = count;
    count += of_warp;
  }
  TileWord* word = words + uint64_t(tile) * kDigits + thread;
  publish(word, pass, tile == 0, count);
  // Two sums in one: over all keys of the batch in the high half, over those of the tile in the low
  // one.
  const uint64_t smaller =
      sum_of_threads_before<kThreads>(uint64_t(histograms[pass * kDigits + thread]) << 32 | count);
  const uint32_t start = uint32_t(smaller);
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) counts[w][thread] += start;
  const uint32_t in_tiles_before = sum_of_tiles_before(words + thread, tile, kDigits, pass);
  if (tile > 0) publish(word, pass, true, in_tiles_before + count);
  place[thread] = uint32_t(smaller >> 32) + in_tiles_before - start;
  __syncthreads();

#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    if (first + 32 * j >= tile_size) continue;
    const uint32_t slot = counts[warp][digit_of(key[j], pass, digit_bits)] + within[j];
    ordered_keys[slot] = key[j];
    ordered_positions[slot] = position[j];
  }
  __syncthreads();
  for (uint32_t slot = thread; slot < tile_size; slot += kThreads) {
    const K moved = ordered_keys[slot];
    const uint32_t to = place[digit_of(moved, pass, digit_bits)] + slot;
    // Where offsets are wrong bags may overlap, and ids be counted twice.
    if (to >= num_keys) continue;
    keys_out[to] = moved;
    positions_out[to] = ordered_positions[slot];
  }
}

// Numbers the rows among sorted keys, and looks up the bags of their occurrences unless `bags` is
// null. There is a key more than are stored, as large as those that stand for no row: the first of
// these ends the last segment.
template <int kItems, typename K>
__device__ __forceinline__ void number_rows(const K* keys, const uint32_t* positions,
                                            const uint32_t* bag_of, uint64_t* rows,
                                            uint32_t* segments, uint32_t* bags, uint32_t* counts,
                                            TileWord* words, uint32_t* tickets, uint64_t num_keys,
                                            uint64_t end_key) {
  __shared__ uint32_t rows_of_tiles_before;
  const uint32_t tile = take_tile(tickets);
  const uint64_t first =
      uint64_t(tile) * (kThreads * kItems) + threadIdx.x / 32 * (32 * kItems) + threadIdx.x % 32;
  const auto key_at = [&](uint64_t k) { return k < num_keys ? keys[k] : K(end_key); };
  K key[kItems];
  bool begins[kItems];
  uint32_t number[kItems], of_warp = 0;
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint64_t k = first + 32 * j;
    key[j] = key_at(k);
    begins[j] = k <= num_keys && (k == 0 || key_at(k - 1) != key[j]);
    const uint32_t beginning = __ballot_sync(kWarp, begins[j] && key[j] != K(end_key));
    number[j] = of_warp + __popc(beginning & lanes_below());
    of_warp += __popc(beginning);
  }
  if (bags) {
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const uint64_t k = first + 32 * j;
      if (key[j] == K(end_key)) continue;
      const uint32_t position = positions[k];
      if (position < num_keys) bags[k] = bag_of[position];
    }
  }
  // Each warp's sum counts once.
  const uint32_t before = sum_of_threads_before<kThreads>(threadIdx.x % 32 == 31 ? of_warp : 0);
  if (threadIdx.x >= kThreads - 32) {
    const bool is_last = threadIdx.x == kThreads - 1;
    const uint32_t of_tile = before + of_warp;
    if (is_last) publish(words + tile, 0, tile == 0, of_tile);
    const uint32_t of_tiles_before = sum_of_tiles_before(words, tile, 0);
    if (is_last && tile > 0) publish(words + tile, 0, true, of_tiles_before + of_tile);
    if (is_last) rows_of_tiles_before = of_tiles_before;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint64_t k = first + 32 * j;
    const uint32_t row = rows_of_tiles_before + before + number[j];
    if (begins[j]) segments[row] = uint32_t(k);
    if (key[j] != K(end_key)) {
      if (begins[j]) rows[row] = key[j];
    } else if (begins[j]) {
      counts[0] = uint32_t(k);
      counts[1] = row;
    }
  }
}

#define INSTANTIATE_KEYS(K, size, kItems)                                                       \
  extern "C" __global__ void __launch_bounds__(kThreads, 2) index_sort_pass_##size##_##K(       \
      const K##_t* keys, const uint32_t* positions, K##_t* keys_out, uint32_t* positions_out,   \
      const uint32_t* histograms, TileWord* words, uint32_t* tickets, uint64_t num_keys,        \
      uint32_t pass, uint32_t digit_bits) {                                                     \
    sort_by_digit<kItems>(keys, positions, keys_out, positions_out, histograms, words, tickets, \
                          num_keys, pass, digit_bits);                                          \
  }                                                                                             \
  extern "C" __global__ void __launch_bounds__(kThreads) index_sort_segments_##size##_##K(      \
      const K##_t* keys, const uint32_t* positions, const uint32_t* bag_of, uint64_t* rows,     \
      uint32_t* segments, uint32_t* bags, uint32_t* counts, TileWord* words, uint32_t* tickets, \
      uint64_t num_keys, uint64_t end_key) {                                                    \
    number_rows<kItems>(keys, positions, bag_of, rows, segments, bags, counts, words, tickets,  \
                        num_keys, end_key);                                                     \
  }
using u32_t = uint32_t;
using u64_t = uint64_t;
INSTANTIATE_KEYS(u32, large, kLarge)
INSTANTIATE_KEYS(u32, small, kSmall)
INSTANTIATE_KEYS(u64, large, kLarge)
INSTANTIATE_KEYS(u64, small, kSmall)
