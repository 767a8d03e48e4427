// A linear layer, y = x W^T + b, and its gradients.
#pragma once

#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"

namespace asose {

struct Linear {
  DType dtype;  // of all tensors: f32 or f64
  int64_t rows, inputs, outputs;

  // Of a row of the turned weights, which the widest vectors divide.
  ASOSE_INLINE int64_t pitch() const {
    const int64_t line = 64 / element_bytes(dtype);
    return (outputs + line - 1) / line * line;
  }
  ASOSE_INLINE int64_t turned_bytes() const { return inputs * pitch() * element_bytes(dtype); }
};

struct LinearForward {
  Linear op;
  const void* x;       // [rows, inputs]
  const void* weight;  // [outputs, inputs]
  const void* bias;    // [outputs]; null where there is none
  void* turned;        // workspace of turned_bytes()
  void* y;             // [rows, outputs]
};

// Gradients are null where they are not wanted.
struct LinearBackward {
  Linear op;
  const void* grad;    // [rows, outputs]
  const void* x;       // null where grad_weight is
  const void* weight;  // null where grad_x is
  void *grad_x, *grad_weight, *grad_bias;
};

ASOSE_KERNEL(linear_forward, LinearForward);
ASOSE_KERNEL(linear_backward, LinearBackward);

}  // namespace asose
