// Products of the channels of pixels and weights: registers hold the sums of some pixels, or of
// some taps, and of some vectors of output channels, while all else goes by.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Sums of so many vectors of channels of as many pixels are kept at once, as there are registers.
constexpr bool kManyRegisters = kVectorBytes == 64;
constexpr int kMostSums = kManyRegisters ? 24 : 12;
constexpr int kMostPixels = 8, kMostTaps = 16;

// A last vector that is half empty holds the sums of odd taps in its other half, in turn with those
// of the even ones. All runs of taps are even then.
template <class A>
constexpr bool kHalves = kManyRegisters && std::is_same_v<A, float>;

// Vectors of the channels of a tensor: whole ones, and one that may be half empty.
struct Width {
  int vectors;
  bool half;

  template <class A>
  static Width of(int64_t channels, int64_t run) {
    const int64_t rest = channels % kLanes<A>;
    const bool half = kHalves<A> && rest && rest <= kLanes<A> / 2 && run % 2 == 0;
    return {static_cast<int>((channels + kLanes<A> - 1) / kLanes<A>) - half, half};
  }
  int all() const { return vectors + half; }
};

// What a sum goes over: taps of a row with their channels, `run` values, in so many rows.
struct Extent {
  int rows, run;
  ptrdiff_t row, pixel;  // from a row of the source to the next, from an output's pixel to the next
  ptrdiff_t down;        // from an output's row to the next
};

// Two values side by side, over and over. As integers they are broadcast by the load itself.
template <class A>
inline Vector<A> pairs(const A* from) {
  typedef int64_t Wide __attribute__((vector_size(kVectorBytes)));
  int64_t both;
  std::memcpy(&both, from, sizeof both);
  return reinterpret_cast<Vector<A>>(Wide{} + both);
}

// sums[row][pixel][vector] = sum over the extent of x * weights; the weights of vectors are `panel`
// values apart.
template <class A, int kRows, int kPixels, int kVectors, bool kHalf>
void mix(const A* x, const A* weights, ptrdiff_t panel, const Extent& extent, A* sums) {
  constexpr int kTaps = kHalf ? 2 : 1, kAll = kVectors + kHalf;
  Vector<A> sum[kRows][kPixels][kAll] = {};
  for (int tap = 0; tap < extent.rows; ++tap, x += extent.row)
    for (int k = 0; k < extent.run; k += kTaps, weights += kTaps * kLanes<A>) {
#pragma GCC unroll 2
      for (int t = 0; t < kTaps; ++t) {
        Vector<A> w[kVectors + 1];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) w[v] = load(weights + v * panel + t * kLanes<A>);
#pragma GCC unroll 2
        for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 8
          for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v)
              sum[y][p][v] += w[v] * x[y * extent.down + p * extent.pixel + k + t];
      }
      if constexpr (kHalf) {
        const Vector<A> w = load(weights + kVectors * panel);
#pragma GCC unroll 2
        for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 8
          for (int p = 0; p < kPixels; ++p)
            sum[y][p][kVectors] += w * pairs(x + y * extent.down + p * extent.pixel + k);
      }
    }
#pragma GCC unroll 2
  for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kAll; ++v)
        store(sums + ((y * kPixels + p) * kAll + v) * kLanes<A>, sum[y][p][v]);
}

// Gradients of the strips of some images, dense but for the step from one image to the next.
template <class A>
struct Gradients {
  const A* data;
  int images, rows, width;
  ptrdiff_t pixel, image;
};

// to[tap][vector] = sum over pixels of x[tap] * grad, which is added where there is `more`; rows of
// `to` are as far apart as the pixels of grad, and images of x `image` values. A half vector is
// written for two taps at once, as `mix` reads it.
template <class A, int kTaps, int kVectors, bool kHalf>
void correlate(const A* x, const Extent& extent, ptrdiff_t image, const Gradients<A>& grads,
               bool more, A* to) {
  Vector<A> sum[kTaps][kVectors + 1] = {}, half[kTaps / 2 + 1] = {};
  const ptrdiff_t pitch = grads.pixel;
  for (int row = 0; row < grads.images * grads.rows; ++row) {
    const int n = row / grads.rows, y = row % grads.rows;
    const A* from = x + n * image + y * extent.down;
    const A* grad = grads.data + n * grads.image + y * grads.width * pitch;
    for (int p = 0; p < grads.width; ++p) {
      Vector<A> g[kVectors + 1];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors + kHalf; ++v) g[v] = load(grad + p * pitch + v * kLanes<A>);
#pragma GCC unroll 16
      for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[k][v] += g[v] * from[p * extent.pixel + k];
      if constexpr (kHalf)
#pragma GCC unroll 8
        for (int k = 0; k < kTaps; k += 2)
          half[k / 2] += g[kVectors] * pairs(from + p * extent.pixel + k);
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      A* at = to + k * pitch + v * kLanes<A>;
      store(at, more ? load(at) + sum[k][v] : sum[k][v]);
    }
  if constexpr (kHalf)
#pragma GCC unroll 8
    for (int k = 0; k < kTaps; k += 2) {
      A* at = to + k * pitch + kVectors * kLanes<A>;
      store(at, more ? load(at) + half[k / 2] : half[k / 2]);
    }
}

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// Calls body(first, number) with constant numbers, the largest that `kMost` and what is left allow.
// They are even for an even count. Nine are a row of three taps and three channels, the last of
// which would be a loop of its own.
template <int kMost, class Body>
inline void in_parts(int count, const Body& body) {
  int first = 0;
  const auto parts = [&](auto number) {
    if constexpr (number.value <= kMost)
      for (; first + number.value <= count; first += number.value) body(first, number);
  };
  parts(Constant<16>{}), parts(Constant<12>{});
  if (count - first == 9) parts(Constant<9>{});
  parts(Constant<8>{}), parts(Constant<6>{}), parts(Constant<4>{}), parts(Constant<2>{});
  parts(Constant<1>{});
}

// Calls body(first, number, half) for groups of vectors, with constants; four are two pairs.
template <class A, class Body>
inline void in_groups(const Width& width, const Body& body) {
  const int with_half = width.half ? std::min(width.vectors, width.vectors == 2 ? 2 : 1) : 0;
  const int whole = width.vectors - with_half;
  const std::false_type no{};
  int first = 0;
  for (; whole - first == 3 || whole - first > 4; first += 3) body(first, Constant<3>{}, no);
  for (; whole - first >= 2; first += 2) body(first, Constant<2>{}, no);
  for (; first < whole; ++first) body(first, Constant<1>{}, no);
  if constexpr (kHalves<A>) {
    const std::true_type yes{};
    if (!width.half) return;
    if (with_half == 2) return body(first, Constant<2>{}, yes);
    if (with_half == 1) return body(first, Constant<1>{}, yes);
    body(first, Constant<0>{}, yes);
  }
}

#if defined(__AVX512F__)

constexpr __mmask16 kAllLanes = 0xffff;  // GCC 12 takes what no mask covers for uninitialised

// Lanes 2 i and 2 i + 1 are value i.
inline Vector<float> spread(Vector<float> values) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm512_maskz_permutexvar_ps(kAllLanes, twice, values);
}

// Value i is the sum of lanes 2 i and 2 i + 1.
inline Vector<float> gathered(Vector<float> lanes) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15);
  return _mm512_maskz_permutexvar_ps(kAllLanes, even, lanes) +
         _mm512_maskz_permutexvar_ps(kAllLanes, odd, lanes);
}

#else

// There are no half vectors.
inline Vector<float> spread(Vector<float> values) { return values; }
inline Vector<float> gathered(Vector<float> lanes) { return lanes; }

#endif

// The first `lanes` of a vector are written; where a mask is given, as a gradient.
template <class T>
inline void put(Vector<typename Element<T>::Acc> value, T* to, const T* mask, int lanes) {
  using Values = Vector<typename Element<T>::Acc>;
  if (mask) value = load(mask, lanes) <= Values{} ? Values{} : value;
  store(to, value, lanes);
}

// Writes what `mix` gives for pixels, each `step` values after the last, from channel `first` of
// `channels` on; `to` and `mask`, as in `put`, begin where the first pixel does.
template <class T, int kVectors, bool kHalf, class A = typename Element<T>::Acc>
inline void put_pixels(const A* sums, int pixels, ptrdiff_t step, T* to, const T* mask,
                       int64_t first, int64_t channels) {
  constexpr int kAll = kVectors + kHalf;
  const int last =
      static_cast<int>(std::min<int64_t>(kLanes<A>, channels - first - (kAll - 1) * kLanes<A>));
  to += first;
  if (mask) mask += first;
  for (int p = 0; p < pixels; ++p, to += step) {
#pragma GCC unroll 4
    for (int v = 0; v < kAll; ++v, sums += kLanes<A>) {
      Vector<A> sum = load(sums);
      if constexpr (kHalf)
        if (v == kVectors) sum = gathered(sum);
      put(sum, to + v * kLanes<A>, mask ? mask + v * kLanes<A> : nullptr,
          v == kAll - 1 ? last : kLanes<A>);
    }
    if (mask) mask += step;
  }
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
