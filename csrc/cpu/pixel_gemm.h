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

// Planes of outputs that are computed together. With 16 registers these are two of four pixels
// each: fewer loads than one of eight, and as many sums.
constexpr int kPlanesAtOnce = kVectorBytes == 64 ? 1 : 2;

template <class A, int kPixels, int kRows, int kPlanes>
inline void mix_fixed(const Vector<A>* in, ptrdiff_t in_row, ptrdiff_t in_plane, int channels,
                      const A* weights, Vector<A>* out, ptrdiff_t out_row, ptrdiff_t out_plane) {
  Vector<A> sum[kRows][kPixels][kPlanes] = {};
  for (int first = 0; first < channels; first += kLanes<A>, in += in_plane) {
    const A* from = reinterpret_cast<const A*>(in);
    const int lanes = channels - first < kLanes<A> ? channels - first : kLanes<A>;
#pragma GCC unroll 2
    for (int lane = 0; lane < lanes; ++lane, weights += kWeightLanes) {
      Vector<A> weight[kPlanes];
#pragma GCC unroll 2
      for (int p = 0; p < kPlanes; ++p) weight[p] = load(weights + p * kLanes<A>);
#pragma GCC unroll 2
      for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 16
        for (int x = 0; x < kPixels; ++x)
#pragma GCC unroll 2
          for (int p = 0; p < kPlanes; ++p)
            sum[y][x][p] += weight[p] * from[(y * in_row + x) * kLanes<A> + lane];
    }
  }
#pragma GCC unroll 2
  for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 16
    for (int x = 0; x < kPixels; ++x)
#pragma GCC unroll 2
      for (int p = 0; p < kPlanes; ++p) out[p * out_plane + y * out_row + x] = sum[y][x][p];
}

// out[p][y][x] = sum over channels c of in[c][y][x] * weights[c], for `planes` planes of outputs,
// at most kPlanesAtOnce. `width` is a multiple of 8.
template <class A>
void mix_pixels(const Vector<A>* in, ptrdiff_t in_row, ptrdiff_t in_plane, int channels,
                const A* weights, Vector<A>* out, ptrdiff_t out_row, ptrdiff_t out_plane,
                int planes, int rows, int width) {
  if constexpr (kPlanesAtOnce == 2)
    if (planes == 2) {
      for (int x = 0; x < width; x += 4)
        for (int y = 0; y < rows; ++y)
          mix_fixed<A, 4, 1, 2>(in + y * in_row + x, in_row, in_plane, channels, weights,
                                out + y * out_row + x, out_row, out_plane);
      return;
    }
  constexpr bool kWide = kVectorBytes == 64;  // registers for 16 sums
  int x = 0;
  if constexpr (kWide)
    for (; x + 16 <= width; x += 16)
      for (int y = 0; y < rows; ++y)
        mix_fixed<A, 16, 1, 1>(in + y * in_row + x, in_row, in_plane, channels, weights,
                               out + y * out_row + x, out_row, out_plane);
  for (; x < width; x += 8) {
    int y = 0;
    if constexpr (kWide)
      for (; y + 2 <= rows; y += 2)
        mix_fixed<A, 8, 2, 1>(in + y * in_row + x, in_row, in_plane, channels, weights,
                              out + y * out_row + x, out_row, out_plane);
    for (; y < rows; ++y)
      mix_fixed<A, 8, 1, 1>(in + y * in_row + x, in_row, in_plane, channels, weights,
                            out + y * out_row + x, out_row, out_plane);
  }
}

template <class A, int kChannels, int kPlanes>
inline void outer_fixed(const A* grad, ptrdiff_t grad_row, int channels, const Vector<A>* y,
                        ptrdiff_t y_row, ptrdiff_t y_plane, int rows, int width, A* to,
                        ptrdiff_t pitch) {
  Vector<A> sum[kChannels][kPlanes] = {};
  for (int row = 0; row < rows; ++row, grad += grad_row * kLanes<A>, y += y_row)
    for (int x = 0; x < width; ++x) {
      Vector<A> value[kPlanes];
#pragma GCC unroll 2
      for (int p = 0; p < kPlanes; ++p) value[p] = y[p * y_plane + x];
#pragma GCC unroll 16
      for (int o = 0; o < kChannels; ++o)
#pragma GCC unroll 2
        for (int p = 0; p < kPlanes; ++p) sum[o][p] += value[p] * grad[x * kLanes<A> + o];
    }
#pragma GCC unroll 16
  for (int o = 0; o < kChannels; ++o)
    if (o < channels)
#pragma GCC unroll 2
      for (int p = 0; p < kPlanes; ++p) {
        A* at = to + o * pitch + p * kLanes<A>;
        store(at, load(at) + sum[o][p]);
      }
}

// to[o] += sum over pixels of grad[o] * y, for the channels o < `channels` of one plane of
// gradients and `planes` planes of y, at most kPlanesAtOnce. `pitch` is that between the rows of
// `to`.
template <class A>
void outer_product(const Vector<A>* grad, ptrdiff_t grad_row, int channels, const Vector<A>* y,
                   ptrdiff_t y_row, ptrdiff_t y_plane, int planes, int rows, int width, A* to,
                   ptrdiff_t pitch) {
  const A* scalars = reinterpret_cast<const A*>(grad);
  if constexpr (kPlanesAtOnce == 2)
    if (planes == 2) {
      constexpr int kChannels = kLanes<A> < 4 ? kLanes<A> : 4;
      for (int o = 0; o < channels; o += kChannels)
        outer_fixed<A, kChannels, 2>(scalars + o, grad_row, channels - o, y, y_row, y_plane, rows,
                                     width, to + o * pitch, pitch);
      return;
    }
  outer_fixed<A, kLanes<A>, 1>(scalars, grad_row, channels, y, y_row, y_plane, rows, width, to,
                               pitch);
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
