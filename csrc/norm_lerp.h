// The last batch norm of a lone branch, blended with a shortcut.
#pragma once

#include "dtype.h"
#include "kernel.h"
#include "lane_grid.h"
#include "mixed_norm_sum.h"
#include "norm_tables.h"

namespace asose {

// y = shortcut + gain (BN(z) - shortcut)
struct NormLerpForward {
  DType dtype;
  ChannelSpace space;
  const void* z;
  const void* shortcut;
  const void* gain;            // one value of the accumulation type; z is not added where it is 0
  RunningNorm norm;            // but for the statistics of the batch, which are computed
  const double *gamma, *beta;  // [channels]; null: 1 and 0
  double* partials;            // [LaneGrid(space, kSumRows).groups(), 2, channels]
  double* statistics;          // workspace, [2, channels]
  double* mean;                // [channels]: what the norm normalises by
  double* rstd;                // [channels]
  void* tables;                // workspace of mixed_norm_sum
  void* y;
};

struct NormLerpBackward {
  DType dtype;
  ChannelSpace space;
  const void* z;         // null where no gradient but that of the shortcut is wanted
  const void* shortcut;  // null where grad_gain is
  const void* grad;
  const void* gain;
  const double *gamma, *beta, *mean, *rstd;
  bool of_batch;
  double* partials;  // [LaneGrid(space, kSumRows).groups(), 3, channels]
  double* sums;      // [3, channels], as in MixedNormSumBackward; null where none is wanted
  void* tables;      // workspace, [2, 4, channels]
  void *grad_z, *grad_shortcut;    // null where they are not wanted
  void* grad_gain;                 // one value
  double *grad_gamma, *grad_beta;  // [channels]
};

ASOSE_KERNEL(norm_lerp_forward, NormLerpForward);
ASOSE_KERNEL(norm_lerp_backward, NormLerpBackward);

}  // namespace asose
