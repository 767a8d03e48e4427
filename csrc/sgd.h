// A step of stochastic gradient descent with momentum, in place, for several parameters.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"

namespace asose {

// A stretch of a parameter, its gradient and its momentum, which lie in memory in the same order.
struct SgdChunk {
  DType dtype;  // f32 or f64
  int64_t count;
  void* parameter;
  const void* gradient;
  void* momentum;  // null: there is none
};

// d = factor gradient + decay parameter; momentum = momentum momentum + d; the parameter moves by
// -rate momentum, or by -rate (d + momentum momentum) for nesterov, or by -rate d without momentum.
// factor = min(1, bound / (norm + 1e-6)), which is NaN where the norm is.
struct Sgd {
  int64_t chunks;
  const SgdChunk* chunk;  // [chunks]
  DType norm_dtype;       // f32 or f64
  const void* norm;       // one element; null: factor = 1
  double bound, rate, momentum, decay;
  bool nesterov;
};

ASOSE_KERNEL(sgd, Sgd);

}  // namespace asose
