// An optimizer step, and the words on the device that control it.
#pragma once

#include <stdint.h>

// The update rules of optimizers.
enum OptimizerKind : uint32_t {
  kSgd = 0,
  kAdagrad = 1,
  kRowwiseAdagrad = 2,
  kAdam = 3,
};

// An update rule with its values. The host computes all that is the same for every element.
struct OptimizerStep {
  OptimizerKind optimizer;
  float learning_rate;
  // The factor of the weight in the L2 term of the gradient.
  float l2;
  // The factor of the weight before the step, for decoupled weight decay.
  float shrink;
  float eps;
  float beta1;
  float beta2;
  // The bias correction of the first moment, `1 / (1 - beta1^t)`.
  float first_correction;
  // The bias correction of the second moment, `1 / (1 - beta2^t)`.
  float second_correction;
};

// The values that change from step to step, at an address that a replayed launch reads.
// The Rust type is `crate::ops::StepValues`.
struct StepValues {
  uint64_t step;
  float learning_rate;
  float shrink;
  float first_correction;
  float second_correction;
  // The decay of a moving average.
  float decay;
  uint32_t reserved;
};

// The words on the device that control a step.
struct StepPointers {
  // The values of the step that replace those of the launch, or null.
  const StepValues* values;
  // The gate, a word that is not zero if nothing may change, or null.
  const uint64_t* gate;
};
