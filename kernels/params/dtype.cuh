// The storage types that a kernel tells apart at run time.
#pragma once

#include <stdint.h>

// The storage type of a matrix whose type is no part of a kernel's name. Instances for each type
// would multiply the kernels of tables, which have an instance for each type of rows already, and a
// branch that a whole grid takes alike costs little beside an access to memory.
enum DType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kBf16 = 2,
};
