// Mean and biased variance of every channel of several tensors.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"
#include "lane_grid.h"

namespace asose {

struct BatchStatistics {
  DType dtype;
  ChannelSpace space;
  int inputs;
  const void* const* z;  // [inputs]
  double* partials;      // [LaneGrid(space, kSumRows).groups(), inputs, 2, channels]
  double* mean;          // [inputs, channels]
  double* var;           // [inputs, channels]
};

ASOSE_KERNEL(batch_statistics, BatchStatistics);

}  // namespace asose
