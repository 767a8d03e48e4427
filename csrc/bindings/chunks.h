// Arrays of any length are worked on in chunks, which threads share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../dtype.h"
#include "arguments.h"

namespace asose {

constexpr int64_t kChunk = 1 << 13;  // elements

// Kernels may not throw among threads.
inline DType wide_dtype(int code) {
  expect_between("dtype", code, 0, 1);
  return static_cast<DType>(code);
}

inline void* element_address(DType dtype, uintptr_t array, int64_t index) {
  return address(array + index * accumulation_bytes(dtype));
}

// Calls body(first, count) for the chunks of an array in their order.
template <class Body>
void for_chunks(int64_t elements, const Body& body) {
  expect_at_least("elements", elements, 0);
  for (int64_t first = 0; first < elements; first += kChunk)
    body(first, std::min(kChunk, elements - first));
}

}  // namespace asose
