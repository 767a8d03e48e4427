// Adds one array, times a factor, to another.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"

namespace asose {

struct AddScaled {
  DType dtype;         // of the arrays
  DType factor_dtype;  // f32 or f64
  int64_t count;
  const void* factor;  // one element; null: 1
  const void* x;
  void* to;
};

ASOSE_KERNEL(add_scaled, AddScaled);

}  // namespace asose
