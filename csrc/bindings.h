// What the Python modules of all devices share: how tensors arrive, and that numbers and lists are
// such that the kernels index nothing beyond them. What lies at an address is Python's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "arch_weights.h"
#include "mixed_sum.h"
#include "multi_depthwise.h"

namespace asose {

inline void expect_count(const char* list, size_t count, int64_t wanted) {
  if (static_cast<int64_t>(count) != wanted)
    throw std::invalid_argument(std::string(list) + " must hold " + std::to_string(wanted) +
                                " values, got " + std::to_string(count));
}

inline void expect_between(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most)
    throw std::invalid_argument(std::string(name) + " must be from " + std::to_string(least) +
                                " to " + std::to_string(most) + ", got " + std::to_string(value));
}

constexpr int64_t kMostPixels = int64_t{1} << 30;  // along an axis: tiles are cut with ints

// (N, C, H, W), of which N alone may be 0.
inline void expect_images(const std::vector<int64_t>& shape) {
  expect_count("shape", shape.size(), 4);
  expect_between("images", shape[0], 0, std::numeric_limits<int64_t>::max());
  expect_between("channels", shape[1], 1, std::numeric_limits<int64_t>::max());
  expect_between("height", shape[2], 1, kMostPixels);
  expect_between("width", shape[3], 1, kMostPixels);
}

inline void expect_arch_weights(int64_t layers, int64_t ops) {
  expect_between("layers", layers, 0, std::numeric_limits<int64_t>::max());
  expect_between("ops", ops, 1, kMaxOps);
}

// Of mixed_sum, `tensors` of them for each input and one more.
inline void expect_operands(int inputs, int tensors, const std::vector<int64_t>& sizes,
                            const std::vector<uintptr_t>& addresses,
                            const std::vector<int64_t>& strides) {
  expect_between("inputs", inputs, 1, kMaxInputs);
  expect_between("dimensions", static_cast<int64_t>(sizes.size()), 0, kMaxDims);
  for (const int64_t size : sizes)
    expect_between("a size", size, 0, std::numeric_limits<int64_t>::max());
  expect_count("addresses", addresses.size(), int64_t{tensors} * inputs + 1);
  expect_count("strides", strides.size(), static_cast<int64_t>(addresses.size() * sizes.size()));
}

inline void* address(uintptr_t value) { return reinterpret_cast<void*>(value); }

inline std::vector<void*> pointers(const std::vector<uintptr_t>& addresses) {
  std::vector<void*> result;
  result.reserve(addresses.size());
  for (const uintptr_t value : addresses) result.push_back(address(value));
  return result;
}

// One row of `strides` per address, in the same order.
inline std::vector<Operand> operands(const std::vector<uintptr_t>& addresses,
                                     const std::vector<int64_t>& strides, size_t dims) {
  std::vector<Operand> result;
  result.reserve(addresses.size());
  for (size_t i = 0; i < addresses.size(); ++i)
    result.push_back({address(addresses[i]), strides.data() + i * dims});
  return result;
}

// The lists must outlive it. `threads` is the CPU's.
inline MultiDepthwise multi_depthwise(int dtype, const std::vector<int64_t>& shape,
                                      const std::vector<int64_t>& kernels,
                                      const std::vector<int64_t>& dilations, int stride, bool relu,
                                      bool affine, int inputs, int threads) {
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
    expect_between("a dilation", dilations[b], 1, std::numeric_limits<int64_t>::max());
    expect_between("taps", taps += kernels[b] * kernels[b], 1, kMost);
  }
  MultiDepthwise op{};
  op.dtype = static_cast<DType>(dtype);
  op.images = shape[0], op.channels = shape[1], op.height = shape[2], op.width = shape[3];
  op.stride = stride, op.relu = relu, op.affine = affine;
  op.inputs = inputs, op.branches = static_cast<int>(kernels.size());
  op.kernels = kernels.data(), op.dilations = dilations.data();
  op.threads = threads;
  return op;
}

}  // namespace asose
