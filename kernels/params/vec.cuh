// The width of vectorised loads and stores.
#pragma once

#include <stdint.h>

// The bytes of a thread's widest load or store.
constexpr int kVectorBytes = 16;
