// Sum of branches that each have a scale and a centre per channel: what is left of a batch norm
// once its statistics are known. Tables are [inputs, channels], in the accumulation type of dtype.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "lanes.h"

namespace asose {

// y = sum_k scale_k (z_k - center_k) + shift
struct MixedNormSumForward {
  DType dtype;
  ChannelSpace space;
  int inputs;
  const void* const* z;
  const void* weights;  // [inputs]; z_k is not read where it is 0
  const void* scale;
  const void* center;
  const void* shift;  // [channels]
  void* y;
  int threads;
};

// sums[0] = sum g, sums[1 + k] = sum g (z_k - center_k), per channel
struct MixedNormSumReduce {
  DType dtype;
  ChannelSpace space;
  int inputs;
  const void* const* z;  // null where the sum is not wanted: it becomes 0
  const void* grad;
  const void* center;
  double* partials;  // [LaneGrid(space, kSumRows).groups(), 1 + inputs, channels]
  double* sums;      // [1 + inputs, channels]
  int threads;
};

// dz_k = scale_k g + slope_k (z_k - center_k) + shift_k
struct MixedNormSumBackward {
  DType dtype;
  ChannelSpace space;
  int inputs;
  const void* const* z;  // null: dz_k = scale_k g
  const void* grad;
  const void* weights;  // [inputs]; z_k is not read and dz_k = 0 where it is 0
  const void* scale;
  const void* center;
  const void* slope;
  const void* shift;
  void* const* grad_z;  // null where it is not wanted
  int threads;
};

}  // namespace asose
