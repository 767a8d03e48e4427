// The weights of convolutions among the arguments of a kernel.
#pragma once

#include <cstdint>
#include <vector>

#include "../stage_weights.h"
#include "arguments.h"

namespace asose {

// Of each weight: dtype, address, columns, side, and three strides.
inline std::vector<StridedWeight> strided_weights(const Integers& values, int branches) {
  constexpr int kValues = 7;
  expect_count("weights", values.size(), kValues * branches);
  std::vector<StridedWeight> weights;
  weights.reserve(branches);
  for (int b = 0; b < branches; ++b) {
    const int64_t* of = values.data() + kValues * b;
    expect_at_least("columns", of[2], 1);
    expect_at_least("side", of[3], 1);
    weights.push_back({static_cast<DType>(of[0]),
                       address(static_cast<uintptr_t>(of[1])),
                       of[2],
                       of[3],
                       {of[4], of[5], of[6]}});
  }
  return weights;
}

// The kernels of the branches, whose sides the weights have.
inline Integers sides(const std::vector<StridedWeight>& weights) {
  Integers found;
  for (const StridedWeight& weight : weights) found.push_back(weight.side);
  return found;
}

}  // namespace asose
