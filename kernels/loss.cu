// loss.cu: the mean loss of a batch of logits and, in the same pass, its gradient.
//
// Computes     mean = sum of the samples' losses / batch_size, grad[b] = loss_scale times the
//              derivative of the mean by logit b; src/ops/loss.rs has the formulas
// Rust         src/ops/loss.rs, src/backend/cuda/loss.rs
// Entries      loss_forward_f32
// Algorithm    1. One thread computes the loss and the gradient of one sample, so that logits and
//                 labels are read once.
//              2. A block adds its losses in a fixed reduction tree, warp shuffles first, and
//                 writes one partial sum.
//              3. The block that arrives last adds the partial sums in an order that depends on
//                 their number alone. Atomic additions would add them in another order each time.
// Mapping      sample  0 1 .. 31 | 32 .. 63 | .. | .. 255   | 256 ..
//              thread  0 1 .. 31 | 32 .. 63 | .. | .. 255   | 0 ..
//              warp    shuffles  | shuffles | .. | shuffles |
//              block   warp 0 + warp 1 + ... + warp 7 -> partial_sums[blockIdx.x]
//              last    thread t -> partial sums t, t + 256, ..; then the same tree
// Launch       grid ceil(batch_size / 256), at least 1, block 256
// Bytes        logits and labels read, gradient written, each once; 8 bytes for each block written
//              and read besides
// Requires     at most 2^32 - 2 samples; labels may hold anything: one that is not in [0, 1] is
//              skipped and noted
// Numerics     terms and sums in f64, the gradient rounded once: the same bits for any run; the
//              mean differs from the CPU's by the order of its sum
// Measured     compiled and emulated, not yet measured

#include "common/arrivals.cuh"
#include "common/bags.cuh"
#include "params/loss.cuh"

struct Loss {
  double value, grad;
};

struct How {
  bool squared;  // Set for the squared error of the probability, else it is the cross-entropy.
  double threshold;
  double negative, positive;  // The weights of the labels, used by the cross-entropy only.
};

// Returns the loss of one sample and its derivative by the logit.
__device__ __forceinline__ Loss loss_of(const How& how, double z, double y) {
  const double p = 1.0 / (1.0 + exp(-z));
  // NaN is not clamped, so that its gradient is NaN, too.
  const bool clamped = how.threshold > 0.0 && (p < how.threshold || p > 1.0 - how.threshold);
  const double q = clamped ? fmin(fmax(p, how.threshold), 1.0 - how.threshold) : p;
  if (how.squared) return {(q - y) * (q - y), clamped ? 0.0 : 2.0 * (q - y) * p * (1.0 - p)};
  const double weight = y >= 0.5 ? how.positive : how.negative;
  if (clamped) return {weight * (-y * log(q) - (1.0 - y) * log(1.0 - q)), weight * 0.0};
  // The formula below would compute infinity minus infinity, or infinity times 0.
  if (isinf(z)) return {weight * (p == y ? 0.0 : fabs(z)), weight * (p - y)};
  return {weight * (fmax(z, 0.0) - z * y + log1p(exp(-fabs(z)))), weight * (p - y)};
}

// Returns the sum over the block to its first thread, added in a fixed reduction tree.
__device__ __forceinline__ double block_sum(double x) {
  __shared__ double sums[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0.0;
  if (threadIdx.x == 0) {
    for (double of_warp : sums) sum += of_warp;
  }
  return sum;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    loss_forward_f32(const __grid_constant__ LossForward p) {
  const uint64_t sample = uint64_t(blockIdx.x) * kThreads + threadIdx.x;
  double value = 0.0;
  if (sample < p.batch_size) {
    const float label = p.labels[sample];
    const bool is_label = label >= 0.0f && label <= 1.0f;
    if (!is_label)
      note(p.status,
           {kLabels << 32 | sample, int64_t(__float_as_uint(label)), 0, kBadLabel, 0, kLoss, 0});
    const Loss loss = is_label ? loss_of({p.squared != 0, p.threshold, p.negative, p.positive},
                                         p.logits[sample], label)
                               : Loss{};
    value = loss.value;
    if (p.grad_logits)
      p.grad_logits[sample] = float(loss.grad * (1.0 / double(p.batch_size))) * p.loss_scale;
  }
  double sum = block_sum(value);
  if (gridDim.x > 1) {
    if (threadIdx.x == 0) p.partial_sums[blockIdx.x] = sum;
    if (!arrives_last(p.arrivals, gridDim.x)) return;
    sum = 0.0;
    for (uint32_t k = threadIdx.x; k < gridDim.x; k += kThreads) sum += p.partial_sums[k];
    sum = block_sum(sum);
  }
  if (threadIdx.x == 0) *p.mean = p.batch_size == 0 ? 0.0 : sum * (1.0 / double(p.batch_size));
}
