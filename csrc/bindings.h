// What the Python modules of all devices share: how tensors arrive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mixed_sum.h"
#include "multi_depthwise.h"

namespace asose {

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
