// A dense convolution among the arguments of a kernel.
#pragma once

#include <cstdint>
#include <limits>

#include "../dense_conv.h"
#include "arguments.h"

namespace asose {

// The weights' shape is (out channels, in channels, taps down, taps across).
inline DenseConv dense_conv(int dtype, const Integers& shape, const Integers& weights,
                            int64_t stride_down, int64_t stride_across, bool relu) {
  expect_images(shape);
  expect_at_least("images", shape[0], 1);
  expect_count("weights' shape", weights.size(), 4);
  for (const int64_t size : weights)
    expect_between("a size of weights", size, 1, std::numeric_limits<int>::max());
  for (const int64_t taps : {weights[2], weights[3]})
    expect_between("a remainder of the kernel by 2", taps % 2, 1, 1);
  expect_between("channels", shape[1], weights[1], weights[1]);
  for (const int64_t stride : {stride_down, stride_across})
    expect_between("stride", stride, 1, kMostPixels);
  return {static_cast<DType>(dtype),
          shape[0],
          shape[1],
          shape[2],
          shape[3],
          weights[0],
          weights[2],
          weights[3],
          stride_down,
          stride_across,
          relu};
}

inline DenseWeights dense_weights(uintptr_t data, const Integers& strides) {
  expect_count("strides", strides.size(), 4);
  return {address(data), strides[0], strides[1], strides[2], strides[3]};
}

}  // namespace asose
