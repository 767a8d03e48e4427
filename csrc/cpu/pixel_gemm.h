// Matrix products over pixels, a vector of channels a pixel: what a pointwise convolution and its
// gradients are. A plane holds one vector of every pixel, and so as many channels as a vector has
// lanes; the planes of a tensor's channels lie `plane` vectors apart.
#pragma once

#include <cstddef>

#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

template <class A, int kPixels>
inline void mix_pixels_fixed(const Vector<A>* in, ptrdiff_t plane, int channels, const A* weights,
                             ptrdiff_t pitch, Vector<A>* out) {
  Vector<A> sum[kPixels] = {};
  for (int first = 0; first < channels; first += kLanes<A>, in += plane) {
    const A* from = reinterpret_cast<const A*>(in);
    const int lanes = channels - first < kLanes<A> ? channels - first : kLanes<A>;
#pragma GCC unroll 2
    for (int lane = 0; lane < lanes; ++lane, weights += pitch) {
      const Vector<A> weight = load(weights);
#pragma GCC unroll 16
      for (int x = 0; x < kPixels; ++x) sum[x] += weight * from[x * kLanes<A> + lane];
    }
  }
#pragma GCC unroll 16
  for (int x = 0; x < kPixels; ++x) out[x] = sum[x];
}

// out[x] = sum over channels c of in[c][x] * weights[c], for one plane of outputs. `count` is a
// multiple of 8, `pitch` that between the rows of weights.
template <class A>
void mix_pixels(const Vector<A>* in, ptrdiff_t plane, int channels, const A* weights,
                ptrdiff_t pitch, Vector<A>* out, int count) {
  constexpr int kWide = kVectorBytes == 64 ? 16 : 8;
  int x = 0;
  for (; x + kWide <= count; x += kWide)
    mix_pixels_fixed<A, kWide>(in + x, plane, channels, weights, pitch, out + x);
  for (; x < count; x += 8)
    mix_pixels_fixed<A, 8>(in + x, plane, channels, weights, pitch, out + x);
}

// to[o] += sum over pixels of grad[o] * y, for the channels o < `channels` of one plane of
// gradients and one plane of y. `pitch` is that between the rows of `to`.
template <class A>
void outer_product(const Vector<A>* grad, ptrdiff_t grad_row, int channels, const Vector<A>* y,
                   ptrdiff_t y_row, int rows, int width, A* to, ptrdiff_t pitch) {
  constexpr int kAll = kLanes<A>;
  Vector<A> sum[kAll] = {};
  for (int row = 0; row < rows; ++row)
    for (int x = 0; x < width; ++x) {
      const Vector<A> value = y[row * y_row + x];
      const A* scalars = reinterpret_cast<const A*>(grad + row * grad_row + x);
#pragma GCC unroll 16
      for (int o = 0; o < kAll; ++o) sum[o] += value * scalars[o];
    }
#pragma GCC unroll 16
  for (int o = 0; o < kAll; ++o)
    if (o < channels) store(to + o * pitch, load(to + o * pitch) + sum[o]);
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
