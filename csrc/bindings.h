// What the Python modules of all devices share: how tensors arrive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mixed_sum.h"

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

}  // namespace asose
