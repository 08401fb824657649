// One step of an optimizer on one element. The operations and their order are those of
// src/backend/cpu/optimizer.rs, each rounded separately, which makes results equal to the bit.
#pragma once

#include "params/optimizer.cuh"

// Returns the step with the values on the device in place of its own, unless `values` is null.
__device__ __forceinline__ OptimizerStep with_values(OptimizerStep step, const StepValues* values) {
  if (values) {
    step.learning_rate = values->learning_rate;
    step.shrink = values->shrink;
    step.first_correction = values->first_correction;
    step.second_correction = values->second_correction;
  }
  return step;
}

// Returns true if there is a gate and it is shut.
__device__ __forceinline__ bool is_shut(const StepPointers& control) {
  return control.gate && *control.gate != 0;
}

__device__ __forceinline__ float clamped(float x, float max) {
  return x < -max ? -max : x > max ? max : x;
}

// Returns the step with its weight decay multiplied by `scale`.
__device__ __forceinline__ OptimizerStep with_decay_scaled(OptimizerStep step, float scale) {
  step.l2 = __fmul_rn(step.l2, scale);
  step.shrink = __fsub_rn(1.0f, __fmul_rn(__fsub_rn(1.0f, step.shrink), scale));
  return step;
}

__device__ __forceinline__ float regularised(const OptimizerStep& step, float gradient,
                                             float weight) {
  return __fadd_rn(gradient, __fmul_rn(step.l2, weight));
}

// Returns the learning rate of a row, given its sum of squared gradients.
__device__ __forceinline__ float rowwise_rate(const OptimizerStep& step, float sum_of_squares) {
  return __fdiv_rn(step.learning_rate, __fadd_rn(__fsqrt_rn(sum_of_squares), step.eps));
}

// Returns the new weight. `first` and `second` are the optimizer's state of the element; for
// kRowwiseAdagrad `first` is the learning rate of its row.
__device__ __forceinline__ float stepped(const OptimizerStep& step, float gradient, float weight,
                                         float& first, float& second) {
  const float g = regularised(step, gradient, weight);
  const float kept = __fmul_rn(weight, step.shrink);
  if (step.optimizer == kAdagrad) {
    first = __fadd_rn(first, __fmul_rn(g, g));
    return __fsub_rn(
        kept, __fdiv_rn(__fmul_rn(step.learning_rate, g), __fadd_rn(__fsqrt_rn(first), step.eps)));
  }
  if (step.optimizer == kRowwiseAdagrad) return __fsub_rn(kept, __fmul_rn(first, g));
  if (step.optimizer == kAdam) {
    first = __fadd_rn(__fmul_rn(step.beta1, first), __fmul_rn(__fsub_rn(1.0f, step.beta1), g));
    second = __fadd_rn(__fmul_rn(step.beta2, second),
                       __fmul_rn(__fsub_rn(1.0f, step.beta2), __fmul_rn(g, g)));
    const float root = __fadd_rn(__fsqrt_rn(__fmul_rn(second, step.second_correction)), step.eps);
    return __fsub_rn(
        kept,
        __fdiv_rn(__fmul_rn(step.learning_rate, __fmul_rn(first, step.first_correction)), root));
  }
  return __fsub_rn(kept, __fmul_rn(step.learning_rate, g));
}
