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
#include "common/block_reduce.cuh"
#include "common/sample_loss.cuh"
#include "params/loss.cuh"

extern "C" __global__ void __launch_bounds__(kThreads)
    loss_forward_f32(const __grid_constant__ LossForward p) {
  const uint64_t sample = uint64_t(blockIdx.x) * kThreads + threadIdx.x;
  double value = 0.0;
  if (sample < p.batch_size) {
    const Loss loss = checked_loss(p, sample, p.logits[sample], kLoss);
    value = loss.value;
    if (p.grad_logits) p.grad_logits[sample] = logit_grad(p, loss);
  }
  double sum = block_sum<kThreads>(value);
  if (gridDim.x > 1) {
    if (threadIdx.x == 0) p.partial_sums[blockIdx.x] = sum;
    if (!arrives_last(p.arrivals, gridDim.x)) return;
    sum = 0.0;
    for (uint32_t k = threadIdx.x; k < gridDim.x; k += kThreads) sum += p.partial_sums[k];
    sum = block_sum<kThreads>(sum);
  }
  if (threadIdx.x == 0) *p.mean = p.batch_size == 0 ? 0.0 : sum * (1.0 / double(p.batch_size));
}
