// One vector of the widest registers of the instruction set this is built for, kept in the
// accumulation type: narrow elements are widened on load and rounded on store.
#pragma once

#include <cstdint>
#include <cstring>

#include "../dtype.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using Vector = typename VectorOf<A>::type;

typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

inline Vector<float> load(const float* from) {
  Vector<float> result;
  std::memcpy(&result, from, sizeof result);
  return result;
}

inline Vector<double> load(const double* from) {
  Vector<double> result;
  std::memcpy(&result, from, sizeof result);
  return result;
}

inline Vector<float> load(const bfloat16* from) {
  HalfBits bits;
  std::memcpy(&bits, from, sizeof bits);
  return reinterpret_cast<Vector<float>>(__builtin_convertvector(bits, Bits) << 16);
}

inline void store(float* to, Vector<float> value) { std::memcpy(to, &value, sizeof value); }

inline void store(double* to, Vector<double> value) { std::memcpy(to, &value, sizeof value); }

// Rounds as Element<bfloat16>::store does.
inline void store(bfloat16* to, Vector<float> value) {
  const Bits wide = reinterpret_cast<Bits>(value);
  const Bits rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
  const Bits quiet = rounded * 0u + 0x7fc0u;
  const HalfBits bits = __builtin_convertvector(value != value ? quiet : rounded, HalfBits);
  std::memcpy(to, &bits, sizeof bits);
}

// The first `lanes` elements; the other lanes are 0.
template <class T>
inline Vector<typename Element<T>::Acc> load(const T* from, int lanes) {
  constexpr int kAll = kLanes<typename Element<T>::Acc>;
  if (__builtin_expect(lanes == kAll, true)) return load(from);
  T buffer[kAll] = {};
  for (int lane = 0; lane < lanes; ++lane) buffer[lane] = from[lane];
  return load(buffer);
}

// Writes the first `lanes` elements only.
template <class T>
inline void store(T* to, Vector<typename Element<T>::Acc> value, int lanes) {
  constexpr int kAll = kLanes<typename Element<T>::Acc>;
  if (__builtin_expect(lanes == kAll, true)) return store(to, value);
  T buffer[kAll];
  store(buffer, value);
  for (int lane = 0; lane < lanes; ++lane) to[lane] = buffer[lane];
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
