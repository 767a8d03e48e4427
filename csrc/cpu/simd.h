// One vector of the widest registers of the instruction set this is built for, kept in the
// accumulation type: narrow elements are widened on load and rounded on store.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

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

inline void store(float* to, Vector<float> value) { std::memcpy(to, &value, sizeof value); }

inline void store(double* to, Vector<double> value) { std::memcpy(to, &value, sizeof value); }

inline Vector<float> widened(HalfBits bits) {
  return reinterpret_cast<Vector<float>>(__builtin_convertvector(bits, Bits) << 16);
}

inline Vector<float> load(const bfloat16* from) {
  HalfBits bits;
  std::memcpy(&bits, from, sizeof bits);
  return widened(bits);
}

typedef float HalfFloats __attribute__((vector_size(kVectorBytes / 2)));

// As many floats as there are doubles in a vector.
inline Vector<double> load_wide(const float* from) {
  HalfFloats values;
  std::memcpy(&values, from, sizeof values);
  return __builtin_convertvector(values, Vector<double>);
}

inline void store_narrow(float* to, Vector<double> value) {
  const HalfFloats values = __builtin_convertvector(value, HalfFloats);
  std::memcpy(to, &values, sizeof values);
}

// The upper half of each lane is the nearest bfloat16, but for NaN.
inline Bits nearest(Vector<float> value) {
  const Bits wide = reinterpret_cast<Bits>(value);
  return wide + 0x7fffu + ((wide >> 16) & 1u);
}

// As Element<bfloat16>::store does.
inline HalfBits rounded(Vector<float> value) {
  const Bits bits = nearest(value) >> 16, quiet = bits * 0u + 0x7fc0u;
  return __builtin_convertvector(value != value ? quiet : bits, HalfBits);
}

// What is read where the value was stored as a T; NaN stays as it is.
template <class T>
inline Vector<typename Element<T>::Acc> as(Vector<typename Element<T>::Acc> value) {
  if constexpr (sizeof(T) < sizeof(value[0])) {
    const auto held = reinterpret_cast<Vector<float>>(nearest(value) & 0xffff0000u);
    return value != value ? value : held;
  } else {
    return value;
  }
}

inline void store(bfloat16* to, Vector<float> value) {
  const HalfBits bits = rounded(value);
  std::memcpy(to, &bits, sizeof bits);
}

// Fewer elements than a vector has lanes, one by one where no instruction takes them at once.
template <class T>
inline Vector<typename Element<T>::Acc> load_first(const T* from, int lanes) {
  T buffer[kLanes<typename Element<T>::Acc>] = {};
  for (int lane = 0; lane < lanes; ++lane) buffer[lane] = from[lane];
  return load(buffer);
}

template <class T>
inline void store_first(T* to, Vector<typename Element<T>::Acc> value, int lanes) {
  T buffer[kLanes<typename Element<T>::Acc>];
  store(buffer, value);
  for (int lane = 0; lane < lanes; ++lane) to[lane] = buffer[lane];
}

// The first `lanes` of from[steps[lane]]; the other lanes are 0.
template <class A>
inline Vector<A> gather(const A* from, const int64_t* steps, int lanes) {
  Vector<A> result = {};
  for (int lane = 0; lane < lanes; ++lane) result[lane] = from[steps[lane]];
  return result;
}

#if defined(__SANITIZE_ADDRESS__)

// AddressSanitizer does not see what masked instructions touch.

#elif defined(__AVX512F__)

template <class Mask>
constexpr Mask first_of(int lanes) {
  return static_cast<Mask>((1u << lanes) - 1u);
}

inline Vector<float> load_first(const float* from, int lanes) {
  return _mm512_maskz_loadu_ps(first_of<__mmask16>(lanes), from);
}

inline Vector<double> load_first(const double* from, int lanes) {
  return _mm512_maskz_loadu_pd(first_of<__mmask8>(lanes), from);
}

inline Vector<float> load_first(const bfloat16* from, int lanes) {
  return widened(
      reinterpret_cast<HalfBits>(_mm256_maskz_loadu_epi16(first_of<__mmask16>(lanes), from)));
}

inline void store_first(float* to, Vector<float> value, int lanes) {
  _mm512_mask_storeu_ps(to, first_of<__mmask16>(lanes), value);
}

inline void store_first(double* to, Vector<double> value, int lanes) {
  _mm512_mask_storeu_pd(to, first_of<__mmask8>(lanes), value);
}

inline void store_first(bfloat16* to, Vector<float> value, int lanes) {
  _mm256_mask_storeu_epi16(to, first_of<__mmask16>(lanes),
                           reinterpret_cast<__m256i>(rounded(value)));
}

inline Vector<float> gather(const float* from, const int64_t* steps, int lanes) {
  const auto eight = [&](int first) {
    const auto mask = first_of<__mmask8>(std::clamp(lanes - first, 0, 8));
    return _mm512_mask_i64gather_ps(_mm256_setzero_ps(), mask, _mm512_loadu_si512(steps + first),
                                    from, sizeof(float));
  };
  return _mm512_insertf32x8(_mm512_castps256_ps512(eight(0)), eight(8), 1);
}

#elif defined(__AVX2__)

// Lane i of a mask counts where its highest bit is set.
inline __m256i first_of_8(int lanes) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline __m256i first_of_4(int lanes) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes), _mm256_setr_epi64x(0, 1, 2, 3));
}

inline Vector<float> load_first(const float* from, int lanes) {
  return _mm256_maskload_ps(from, first_of_8(lanes));
}

inline Vector<double> load_first(const double* from, int lanes) {
  return _mm256_maskload_pd(from, first_of_4(lanes));
}

inline void store_first(float* to, Vector<float> value, int lanes) {
  _mm256_maskstore_ps(to, first_of_8(lanes), value);
}

inline void store_first(double* to, Vector<double> value, int lanes) {
  _mm256_maskstore_pd(to, first_of_4(lanes), value);
}

#endif

// The first `lanes` elements; the other lanes are 0.
template <class T>
inline Vector<typename Element<T>::Acc> load(const T* from, int lanes) {
  if (__builtin_expect(lanes == kLanes<typename Element<T>::Acc>, true)) return load(from);
  return load_first(from, lanes);
}

// Writes the first `lanes` elements only.
template <class T>
inline void store(T* to, Vector<typename Element<T>::Acc> value, int lanes) {
  if (__builtin_expect(lanes == kLanes<typename Element<T>::Acc>, true)) return store(to, value);
  store_first(to, value, lanes);
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
