// The Euclidean norm of all elements of several arrays together.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"

namespace asose {

// A stretch of an array. Arrays are cut by their lengths alone.
struct NormChunk {
  DType dtype;  // f32 or f64
  const void* elements;
  int64_t count;
  double squares;  // their sum, which the kernel writes
};

struct TotalNorm {
  int64_t chunks;
  NormChunk* chunk;  // [chunks]
  DType dtype;       // of the norm: f32 or f64
  void* norm;        // one element
};

ASOSE_KERNEL(total_norm, TotalNorm);

}  // namespace asose
