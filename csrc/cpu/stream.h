// Stores around the caches, for outputs that are too large to be found in them again: a plain store
// would first read the memory that it overwrites.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "simd.h"

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

// Whether vectors are whole cache lines, which alone are worth storing so one by one.
template <class T>
constexpr bool kVectorsAreLines =
    kVectorBytes == 64 && sizeof(T) == sizeof(typename Element<T>::Acc);

// Whether a tensor is too large for the caches, and its pixels are whole lines of vectors.
template <class T>
bool streams_pixels(const void* tensor, int64_t pixels, int64_t channels) {
  return kVectorsAreLines<T> && channels % kLanes<typename Element<T>::Acc> == 0 &&
         pixels * channels * static_cast<int64_t>(sizeof(T)) >= kStreamBytes &&
         reinterpret_cast<uintptr_t>(tensor) % kVectorBytes == 0;
}

// One line, where `streams_pixels` says so.
template <class A>
inline void stream(A* to, Vector<A> value) {
#ifdef __AVX512F__
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
#else
  store(to, value);
#endif
}

inline void end_stream() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
