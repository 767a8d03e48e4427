// Matrix products over pixels, a vector of channels a pixel: what a pointwise convolution and its
// gradients are. A plane holds one vector of every pixel, and so as many channels as a vector has
// lanes; the planes of a tensor's channels lie `plane` vectors apart.
#pragma once

#include <cstddef>

#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Weights of one block of output channels: a row of kWeightLanes for every input channel.
constexpr int kWeightLanes = 16;

template <class A, int kPixels, int kRows>
inline void mix_fixed(const Vector<A>* in, ptrdiff_t in_row, ptrdiff_t plane, int channels,
                      const A* weights, Vector<A>* out, ptrdiff_t out_row) {
  Vector<A> sum[kRows][kPixels] = {};
  for (int first = 0; first < channels; first += kLanes<A>, in += plane) {
    const A* from = reinterpret_cast<const A*>(in);
    const int lanes = channels - first < kLanes<A> ? channels - first : kLanes<A>;
#pragma GCC unroll 2
    for (int lane = 0; lane < lanes; ++lane, weights += kWeightLanes) {
      const Vector<A> weight = load(weights);
#pragma GCC unroll 2
      for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 16
        for (int x = 0; x < kPixels; ++x)
          sum[y][x] += weight * from[(y * in_row + x) * kLanes<A> + lane];
    }
  }
#pragma GCC unroll 2
  for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 16
    for (int x = 0; x < kPixels; ++x) out[y * out_row + x] = sum[y][x];
}

// out[y][x] = sum over channels c of in[c][y][x] * weights[c], for one plane of outputs. `width` is
// a multiple of 8.
template <class A>
void mix_pixels(const Vector<A>* in, ptrdiff_t in_row, ptrdiff_t plane, int channels,
                const A* weights, Vector<A>* out, ptrdiff_t out_row, int rows, int width) {
  constexpr bool kWide = kVectorBytes == 64;  // registers for 16 sums
  int x = 0;
  if constexpr (kWide)
    for (; x + 16 <= width; x += 16)
      for (int y = 0; y < rows; ++y)
        mix_fixed<A, 16, 1>(in + y * in_row + x, in_row, plane, channels, weights,
                            out + y * out_row + x, out_row);
  for (; x < width; x += 8) {
    int y = 0;
    if constexpr (kWide)
      for (; y + 2 <= rows; y += 2)
        mix_fixed<A, 8, 2>(in + y * in_row + x, in_row, plane, channels, weights,
                           out + y * out_row + x, out_row);
    for (; y < rows; ++y)
      mix_fixed<A, 8, 1>(in + y * in_row + x, in_row, plane, channels, weights,
                         out + y * out_row + x, out_row);
  }
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
