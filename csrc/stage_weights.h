// The weights of the stages of one depth of a mixed layer as `separable` takes them, with the norms
// before the stages as affine maps; and what their gradients are.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"

namespace asose {

// A weight of a convolution, (channels, columns / side, side): element (c, i, j) is at c *
// strides[0] + i * strides[1] + j * strides[2]. Pointwise weights have side 1.
struct StridedWeight {
  DType dtype;
  void* data;  // null: nothing is read or written
  int64_t columns, side;
  int64_t strides[3];
};

// Norm k gives gamma * (z - mean) * rstd + beta. All tables are [count, channels]; gamma and beta
// may be null.
struct StageNorms {
  int count;  // 0: no norm comes before the stages
  const double* mean;
  const double* rstd;
  const double* gamma;
  const double* beta;
};

// `params` are the taps of all branches, then, where there are norms, their scales and their
// shifts.
struct StageWeightsForward {
  DType dtype;  // of the results
  int branches;
  int64_t channels;
  const StridedWeight* depthwise;  // [branches]
  const StridedWeight* pointwise;  // [branches]
  StageNorms norms;
  void* params;    // [rows, channels]
  void* matrices;  // [branches, channels, channels]
};

// With the sums over pixels S0 = sum g and S1 = rstd (sum g z - mean S0) of a norm, M pixels and
// the norm's scale a, the gradient of its input is g + slope * (z - center) + shift, slope = -a
// rstd S1 / M and shift = -a S0 / M; `tables` has the rows 1, center, slope, shift, and center is
// the mean as the kernels' arithmetic can hold it.
struct StageWeightsBackward {
  DType dtype;  // of the gradients that are given, and of the tables
  int branches;
  int64_t channels;
  const void* grad_params;    // as params of the forward pass; null where no rows are read
  const void* grad_matrices;  // [branches, channels, pitch]; null where they are not read
  int64_t pitch;
  const StridedWeight* depthwise;  // [branches], to be written
  const StridedWeight* pointwise;  // [branches], to be written
  StageNorms norms;
  const bool* used;  // [branches]; S1 of others is 0
  bool
      has_sums;  // whether the last rows of grad_params are sum g z and sum g; else both count as 0
  double pixels;
  double* s0;    // [norms.count, channels]
  double* s1;    // [norms.count, channels]
  void* tables;  // [norms.count, 4, channels]
};

ASOSE_KERNEL(stage_weights_forward, StageWeightsForward);
ASOSE_KERNEL(stage_weights_backward, StageWeightsBackward);

}  // namespace asose
