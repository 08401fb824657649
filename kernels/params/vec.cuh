// The widest loads and stores.
#pragma once

#include <stdint.h>

// Bytes of the widest load or store of a thread.
constexpr int kVectorBytes = 16;
