// The loss of one sample and its derivative by the logit; src/ops/loss.rs has the formulas.
#pragma once

#include "bags.cuh"

struct Loss {
  double value, grad;
};

struct How {
  bool squared;  // Set for the squared error of the probability, else it is the cross-entropy.
  double threshold;
  double negative, positive;  // The weights of the labels, used by the cross-entropy only.
};

// Returns the loss of a sample whose label is valid.
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

// Returns the loss of a sample, without value and derivative if its label is not in [0, 1], which
// is noted. `p` holds the parameters of the op `op`.
template <typename P>
__device__ __forceinline__ Loss checked_loss(const P& p, uint64_t sample, float logit,
                                             FaultyOp op) {
  const float label = p.labels[sample];
  if (label >= 0.0f && label <= 1.0f) {
    return loss_of({p.squared != 0, p.threshold, p.negative, p.positive}, logit, label);
  }
  note(p.status, {kLabels << 32 | sample, int64_t(__float_as_uint(label)), 0, kBadLabel, 0, op, 0});
  return {};
}

// Returns `loss_scale` times the derivative of the mean loss by the logit of a sample.
template <typename P>
__device__ __forceinline__ float logit_grad(const P& p, const Loss& loss) {
  return float(loss.grad * (1.0 / double(p.batch_size))) * p.loss_scale;
}
