// Average and max pooling, 3x3 with padding 1, in one pass.
#pragma once

#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"

namespace asose {

struct PoolPair {
  DType dtype;
  int64_t images, channels, height, width;  // of x; all tensors are dense channels_last
  int64_t stride;                           // 1 or 2
  const void* x;                            // null in backward without grad_max

  ASOSE_INLINE int64_t out_height() const { return (height - 1) / stride + 1; }
  ASOSE_INLINE int64_t out_width() const { return (width - 1) / stride + 1; }
};

struct PoolPairForward {
  PoolPair op;
  void* average;  // either may be null, if not both
  void* max;
};

// grad_x = what the poolings hand back + sum of factor * term. The gradient of a pooling is grad
// or, with tables, scale * grad + slope * (z - center) + shift, as in SeparableBackward.
struct PoolPairBackward {
  PoolPair op;
  const void* grad[2];  // average, max; either may be null
  const void* z[2];
  const void* tables;  // [2, 4, channels] in the accumulation type, or null
  int terms;
  const void* const* term;  // [terms], like x
  const double* factor;     // [terms]
  void* grad_x;
  void* scratch;  // [threads, pool_pair_scratch_bytes(op)], 64-byte aligned
};

ASOSE_KERNEL(pool_pair_forward, PoolPairForward);
ASOSE_KERNEL(pool_pair_backward, PoolPairBackward);

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// It holds three rows of pixels with a margin of one, and a pixel is a vector of 64 bytes.
inline int64_t pool_pair_scratch_bytes(const PoolPair& op) { return 3 * (op.width + 2) * 64; }

}  // namespace

}  // namespace asose
