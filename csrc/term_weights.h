// The weights of the terms of g * sum_k w_k o_k + (1 - g) * s, and the gradients of w and g.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"

namespace asose {

struct TermWeights {
  DType weights_dtype, gain_dtype;  // f32 or f64
  int64_t candidates;
  const void* weights;  // [candidates]; null: 1
  const void* gain;     // one element; null: 1
  int64_t terms;
  const int64_t* order;  // [terms]: the candidate of each, below 0 for the shortcut
  int64_t identity;      // the candidate that is the shortcut too; below 0: none is
};

struct TermWeightsForward {
  TermWeights op;
  DType dtype;  // f32 or f64
  void* out;    // [terms]
};

struct TermWeightsBackward {
  TermWeights op;
  DType dtype;         // f32 or f64
  const void* grad;    // [terms]
  void* grad_weights;  // null where there are no weights
  void* grad_gain;     // null where there is no gain
};

ASOSE_KERNEL(term_weights_forward, TermWeightsForward);
ASOSE_KERNEL(term_weights_backward, TermWeightsBackward);

}  // namespace asose
