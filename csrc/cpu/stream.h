// Stores around the caches, for outputs that are too large to be found in them again: a plain store
// would first read the memory that it overwrites.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace asose::cpu::ASOSE_ISA {
namespace {

constexpr int64_t kStreamBytes = 4 << 20;

// Copies `count` elements; end_stream() must follow in the same thread before others read them.
template <class T>
void stream(T* to, const T* from, int64_t count) {
#ifdef __SSE2__
  constexpr int64_t kElements = sizeof(__m128i) / sizeof(T);
  if (reinterpret_cast<uintptr_t>(to) % sizeof(__m128i) == 0) {
    int64_t i = 0;
    for (; i + kElements <= count; i += kElements)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    to += i, from += i, count -= i;
  }
#endif
  std::memcpy(to, from, count * sizeof(T));
}

inline void end_stream() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
