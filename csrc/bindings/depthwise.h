// The arguments that the operators with depthwise convolutions have in common.
#pragma once

#include <cstdint>
#include <limits>

#include "../multi_depthwise.h"
#include "arguments.h"

namespace asose {

// The lists must outlive the result.
inline MultiDepthwise depthwise(int dtype, const Integers& shape, const Integers& kernels,
                                const Integers& dilations, int stride, bool relu, bool affine,
                                int inputs) {
  expect_images(shape);
  expect_between("branches", static_cast<int64_t>(kernels.size()), 1, kMaxBranches);
  expect_count("dilations", dilations.size(), static_cast<int64_t>(kernels.size()));
  if (inputs != 1) expect_count("kernels", kernels.size(), inputs);
  expect_between("stride", stride, 1, 2);
  int64_t taps = 0;
  for (size_t b = 0; b < kernels.size(); ++b) {
    constexpr int64_t kMost = std::numeric_limits<int>::max();
    expect_between("a kernel", kernels[b], 1, 46340);  // whose square is an int
    expect_between("a remainder of a kernel by 2", kernels[b] % 2, 1, 1);
    expect_at_least("a dilation", dilations[b], 1);
    expect_between("taps", taps += kernels[b] * kernels[b], 1, kMost);
  }
  MultiDepthwise op{};
  op.dtype = static_cast<DType>(dtype);
  op.images = shape[0], op.channels = shape[1], op.height = shape[2], op.width = shape[3];
  op.stride = stride, op.relu = relu, op.affine = affine;
  op.inputs = inputs, op.branches = static_cast<int>(kernels.size());
  op.kernels = kernels.data(), op.dilations = dilations.data();
  return op;
}

}  // namespace asose
