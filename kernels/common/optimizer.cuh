// One step of an optimizer on one parameter, shared by table rows and dense parameters. Formulas in src/ops/optimizer.rs; every operation is
// rounded by itself (no fma) and in the order of src/backend/cpu/optimizer.rs, so that the bits are those of the CPU.
#pragma once

#include <stdint.h>

// As src/backend/cuda/dense_update.rs numbers them.
constexpr uint32_t kSgd = 0, kAdagrad = 1, kAdam = 2;

// What is the same for all parameters.
struct Step {
  float learning_rate;
  float l2;                 // added to the gradient, times the parameter
  float shrink;             // the parameter is multiplied by it
  float beta1, beta2, eps;
  float first_correction;   // 1 / (1 - beta1^t)
  float second_correction;  // 1 / (1 - beta2^t)
};

// Clamped to [-max, max]; a NaN stays one.
__device__ __forceinline__ float clamp_gradient(float grad, float max) { return grad < -max ? -max : grad > max ? max : grad; }

__device__ __forceinline__ float regularised(const Step& step, float grad, float old) { return __fadd_rn(grad, __fmul_rn(step.l2, old)); }

__device__ __forceinline__ float moved(const Step& step, float old, float by) { return __fsub_rn(__fmul_rn(old, step.shrink), by); }

__device__ __forceinline__ float sgd(const Step& step, float grad, float old) {
  return moved(step, old, __fmul_rn(step.learning_rate, regularised(step, grad, old)));
}

__device__ __forceinline__ float adagrad(const Step& step, float grad, float old, float& sum_of_squares) {
  const float g = regularised(step, grad, old);
  sum_of_squares = __fadd_rn(sum_of_squares, __fmul_rn(g, g));
  const float root = __fadd_rn(__fsqrt_rn(sum_of_squares), step.eps);
  return moved(step, old, __fdiv_rn(__fmul_rn(step.learning_rate, g), root));
}

__device__ __forceinline__ float adam(const Step& step, float grad, float old, float& first, float& second) {
  const float g = regularised(step, grad, old);
  first = __fadd_rn(__fmul_rn(step.beta1, first), __fmul_rn(__fsub_rn(1.0f, step.beta1), g));
  second = __fadd_rn(__fmul_rn(step.beta2, second), __fmul_rn(__fsub_rn(1.0f, step.beta2), __fmul_rn(g, g)));
  const float root = __fadd_rn(__fsqrt_rn(__fmul_rn(second, step.second_correction)), step.eps);
  return moved(step, old, __fdiv_rn(__fmul_rn(step.learning_rate, __fmul_rn(first, step.first_correction)), root));
}
