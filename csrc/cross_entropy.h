// Mean cross-entropy of class scores, its gradient, and how many scores name the right class.
#pragma once

#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"

namespace asose {

struct CrossEntropy {
  DType dtype;  // of scores, probabilities, loss and gradients: f32 or f64
  int64_t rows, classes;
  const int64_t* labels;  // [rows]; rows of kIgnored do not count
  double smoothing;

  static constexpr int64_t kIgnored = -100;

  ASOSE_INLINE bool counts(int64_t row) const { return labels[row] >= 0 && labels[row] < classes; }
};

// No label may be anything else than a class or kIgnored.
struct CrossEntropyForward {
  CrossEntropy op;
  const void* scores;   // [rows, classes]
  void* probabilities;  // [rows, classes]: their softmax
  void* loss;           // one element
  int64_t* correct;     // one element: rows whose first largest score, or first NaN, is the label's
};

struct CrossEntropyBackward {
  CrossEntropy op;
  const void* grad;  // one element
  const void* probabilities;
  void* grad_scores;  // [rows, classes]
};

ASOSE_KERNEL(cross_entropy_forward, CrossEntropyForward);
ASOSE_KERNEL(cross_entropy_backward, CrossEntropyBackward);

}  // namespace asose
