// The mean over all pixels of a rectified tensor, which is normalised before.
#pragma once

#include "dtype.h"
#include "kernel.h"
#include "lane_grid.h"
#include "norm_tables.h"

namespace asose {

// y[n, c] = mean of ReLU(BN(x)) over the pixels of channel c of image n; BN is the identity where
// `norm` has neither statistics of the batch nor running ones.
struct NormReluMeanForward {
  DType dtype;
  int64_t images;
  ChannelSpace space;  // outer is a multiple of images
  const void* x;
  RunningNorm norm;            // but for the statistics of the batch, which are computed
  const double *gamma, *beta;  // [channels]; null: 1 and 0
  double* partials;            // [LaneGrid(space, kSumRows).groups(), 2, channels]
  double* statistics;          // workspace, [2, channels]
  double* mean;                // [channels]: what the norm normalises by, 0 and 1 for the identity
  double* rstd;                // [channels]
  double* active;              // [2, images, channels]: how many pixels the ReLU lets through, and
                               // the sum of x - mean over these
  void* tables;                // workspace, [3, channels] in the accumulation type
  void* y;                     // [images, channels]
};

struct NormReluMeanBackward {
  DType dtype;
  int64_t images;
  ChannelSpace space;
  const void* x;     // null where grad_x is
  const void* grad;  // [images, channels]
  const double *gamma, *beta, *mean, *rstd, *active;
  bool of_batch;
  double* sums;                    // workspace, [2, channels]: S0 and S1
  void* tables;                    // workspace, [5 + images, channels]
  void* grad_x;                    // null where it is not wanted
  double *grad_gamma, *grad_beta;  // [channels]; null where they are not wanted
};

ASOSE_KERNEL(norm_relu_mean_forward, NormReluMeanForward);
ASOSE_KERNEL(norm_relu_mean_backward, NormReluMeanBackward);

}  // namespace asose
