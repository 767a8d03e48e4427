// Sum of branches of which some end in a batch norm whose statistics are known. Tables are in the
// accumulation type of dtype.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"
#include "lane_grid.h"

namespace asose {

// What the first inputs are normalised by: BN_k(z) = gamma rstd (z - mean) + beta; [count,
// channels].
struct FoldedNorms {
  int count;
  const double *gamma, *beta;  // null: 1 and 0
  const double *mean, *rstd;
};

// y = sum over k < count of w_k BN_k(z_k) + sum of w_k z_k over the others
struct MixedNormSumForward {
  DType dtype;
  ChannelSpace space;
  int inputs;
  const void* const* z;
  const void* weights;  // [inputs]; z_k is not read where it is 0
  FoldedNorms norms;
  void* tables;  // workspace, [2 * inputs + 1, channels]
  void* y;
};

// dL/dw_k = sum_c gamma sums[1 + k] + beta sums[0], or sum_c sums[1 + k] where k >= count.
// sums[0] = sum g; sums[1 + k] = sum g rstd (z_k - mean), or sum g z_k where k >= count, or 0 where
// z_k is null. dL/dz_k = scale g + slope (z_k - center) + shift with the four rows of tables[k];
// the last two are 0 unless of_batch[k] and sums are there.
struct MixedNormSumBackward {
  DType dtype;
  ChannelSpace space;
  int inputs;
  const void* const* z;  // null where it is not to be read
  const void* grad;
  const void* weights;  // [inputs]; z_k adds nothing to dz_k = 0 where it is 0
  FoldedNorms norms;
  const int* of_batch;           // [count]: whether mean and rstd depend on z_k
  double* partials;              // [LaneGrid(space, kSumRows).groups(), 1 + inputs, channels]
  double* sums;                  // [1 + inputs, channels]; null where it is not wanted
  void* tables;                  // [inputs, 4, channels]: scale, center, slope, shift
  void* const* grad_z;           // null where it is not wanted
  void* grad_weights = nullptr;  // [inputs], made of the sums; null where it is not wanted
};

ASOSE_KERNEL(mixed_norm_sum_forward, MixedNormSumForward);
ASOSE_KERNEL(mixed_norm_sum_backward, MixedNormSumBackward);

}  // namespace asose
