// Tensors arrive as addresses (but for those of tensors.h), and what lies there is Python's
// business. The checks are that numbers and lists let the kernels index nothing beyond them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace asose {

using Integers = std::vector<int64_t>;
using Addresses = std::vector<uintptr_t>;

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

inline void expect_at_least(const char* name, int64_t value, int64_t least) {
  expect_between(name, value, least, std::numeric_limits<int64_t>::max());
}

constexpr int64_t kMostPixels = int64_t{1} << 30;  // along an axis, because tiles are cut with ints

// A shape is (N, C, H, W), of which N alone may be 0.
inline void expect_images(const Integers& shape) {
  expect_count("shape", shape.size(), 4);
  expect_at_least("images", shape[0], 0);
  expect_at_least("channels", shape[1], 1);
  expect_between("height", shape[2], 1, kMostPixels);
  expect_between("width", shape[3], 1, kMostPixels);
}

template <class T = void>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

inline std::vector<void*> pointers(const Addresses& addresses) {
  std::vector<void*> result;
  result.reserve(addresses.size());
  for (const uintptr_t value : addresses) result.push_back(address(value));
  return result;
}

}  // namespace asose
