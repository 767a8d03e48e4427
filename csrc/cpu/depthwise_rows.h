// Depthwise convolution of one row of pixels, a vector of channels a pixel: forward, gradient of
// the input and gradient of the weights. Common kernel sizes are unrolled, the others run as loops.
#pragma once

#include <cstddef>
#include <type_traits>

#include "../multi_depthwise.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// So many pixels of a row are computed at once that the latency of an FMA is hidden behind
// independent sums. Rows are padded to a multiple of it.
constexpr int kStep = 8;

struct Geometry {
  int kernel, dilation, stride;
  int down, across;  // taps to either side of the middle one that are computed with
  constexpr int middle() const { return kernel / 2; }
  constexpr int offset(int tap) const { return (tap - middle()) * dilation; }
  // Margins of the output's gradient that reach into the input's.
  constexpr int grad_halo_down() const { return (down * dilation + stride - 1) / stride; }
  constexpr int grad_halo_across() const { return (across * dilation + stride - 1) / stride; }
};

// Tap `tap` carries a source position to a target position along one axis, and back. Forward, the
// source is the input; positions are relative to the tile, and negative ones lie in its margin.
struct Gather : Geometry {
  constexpr bool meets(int, int) const { return true; }
  constexpr int source(int target, int tap) const { return target * stride + offset(tap); }
  constexpr int target(int source, int tap) const {
    const int scaled = source - offset(tap);
    return scaled % stride ? -1 : scaled / stride;
  }
  // The first and the last source position of targets [0, count).
  constexpr int first() const { return source(0, 0); }
  constexpr int last(int count) const { return source(count - 1, kernel - 1); }
};

// The transpose: the source is the gradient of the output, the target that of the input.
struct Scatter : Geometry {
  constexpr bool meets(int target, int tap) const { return (target - offset(tap)) % stride == 0; }
  constexpr int source(int target, int tap) const { return (target - offset(tap)) / stride; }
  constexpr int target(int source, int tap) const { return source * stride + offset(tap); }
  constexpr int first() const { return source(0, kernel - 1); }
  constexpr int last(int count) const { return source(count - 1, 0); }
};

// A tile with margins: `origin` is its first pixel, rows are `pitch` vectors apart.
template <class A>
struct Plane {
  Vector<A>* origin;
  ptrdiff_t pitch;
  Vector<A>* row(int y) const { return origin + y * pitch; }
};

template <class A>
struct RowKernels {
  // out[x] = (accumulate ? out[x] : 0) + sum of tap * source, for one target row
  using Convolve = void (*)(Geometry, const Plane<A>& source, const Vector<A>* taps, int row,
                            Vector<A>* out, int width, bool accumulate);
  // grad_taps += sum over one output row of grad * source
  using WeightGradient = void (*)(Geometry, const Plane<A>& source, const Vector<A>* grad, int row,
                                  Vector<A>* grad_taps, int width);
  Convolve forward;
  Convolve input_gradient;
  WeightGradient weight_gradient;
};

template <class A, class Axis>
void convolve(Geometry geometry, const Plane<A>& source, const Vector<A>* taps, int row,
              Vector<A>* out, int width, bool accumulate) {
  const Axis axis{geometry};
  const int middle = axis.middle();
  for (int x = 0; x < width; ++x) {
    Vector<A> sum = accumulate ? out[x] : Vector<A>{};
    for (int i = middle - axis.down; i <= middle + axis.down; ++i) {
      if (!axis.meets(row, i)) continue;
      const Vector<A>* from = source.row(axis.source(row, i));
      for (int j = middle - axis.across; j <= middle + axis.across; ++j)
        if (axis.meets(x, j)) sum += taps[i * axis.kernel + j] * from[axis.source(x, j)];
    }
    out[x] = sum;
  }
}

template <class A>
void weight_gradient(Geometry geometry, const Plane<A>& source, const Vector<A>* grad, int row,
                     Vector<A>* grad_taps, int width) {
  const Gather axis{geometry};
  const int middle = axis.middle();
  for (int i = middle - axis.down; i <= middle + axis.down; ++i)
    for (int j = middle - axis.across; j <= middle + axis.across; ++j) {
      const Vector<A>* from = source.row(axis.source(row, i));
      Vector<A> sum = grad_taps[i * axis.kernel + j];
      for (int x = 0; x < width; ++x) sum += grad[x] * from[axis.source(x, j)];
      grad_taps[i * axis.kernel + j] = sum;
    }
}

template <class A, class Axis, int K, int D, int S>
void convolve_fixed(Geometry, const Plane<A>& source, const Vector<A>* taps, int row,
                    Vector<A>* out, int width, bool accumulate) {
  constexpr Axis axis{{K, D, S, K / 2, K / 2}};
  constexpr int kFirst = axis.first(), kLast = axis.last(kStep);
  for (int x = 0; x < width; x += kStep) {
    const ptrdiff_t shift = axis.source(x, 0) - axis.source(0, 0);
    Vector<A> sum[kStep] = {};
    if (accumulate)
#pragma GCC unroll 16
      for (int t = 0; t < kStep; ++t) sum[t] = out[x + t];
#pragma GCC unroll 1
    for (int i = 0; i < K; ++i) {
      if (!axis.meets(row, i)) continue;
      const Vector<A>* from = source.row(axis.source(row, i)) + shift;
      const Vector<A>* tap = taps + i * K;
#pragma GCC unroll 64
      for (int q = kFirst; q <= kLast; ++q) {
        const Vector<A> pixel = from[q];
#pragma GCC unroll 16
        for (int j = 0; j < K; ++j) {
          const int t = axis.target(q, j);
          if (0 <= t && t < kStep) sum[t] += tap[j] * pixel;
        }
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < kStep; ++t) out[x + t] = sum[t];
  }
}

// Rows [first, first + R) of the kernel, whose sums stay in registers along the row, beside the
// gradients of a few pixels.
template <class A, int K, int D, int S, int R>
void weight_gradient_rows(const Plane<A>& source, const Vector<A>* grad, int row, int first,
                          Vector<A>* grad_taps, int width) {
  constexpr Gather axis{{K, D, S, K / 2, K / 2}};
  constexpr int kPixels = kVectorBytes == 64 ? 8 : 4;
  constexpr int kFirst = axis.first(), kLast = axis.last(kPixels);
  Vector<A> sum[R * K];
#pragma GCC unroll 64
  for (int n = 0; n < R * K; ++n) sum[n] = grad_taps[first * K + n];
#pragma GCC unroll 1
  for (int x = 0; x < width; x += kPixels) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vector<A>* from = source.row(axis.source(row, first + r)) + x * S;
#pragma GCC unroll 64
      for (int q = kFirst; q <= kLast; ++q) {
        const Vector<A> pixel = from[q];
#pragma GCC unroll 16
        for (int j = 0; j < K; ++j) {
          const int t = axis.target(q, j);
          if (0 <= t && t < kPixels) sum[r * K + j] += grad[x + t] * pixel;
        }
      }
    }
  }
#pragma GCC unroll 64
  for (int n = 0; n < R * K; ++n) grad_taps[first * K + n] = sum[n];
}

template <class A, int K, int D, int S>
void weight_gradient_fixed(Geometry, const Plane<A>& source, const Vector<A>* grad, int row,
                           Vector<A>* grad_taps, int width) {
  constexpr int kRows = kVectorBytes == 64 ? (K == 7 ? 2 : 3) : (K == 3 ? 3 : K == 5 ? 2 : 1);
  int first = 0;
  for (; first + kRows <= K; first += kRows)
    weight_gradient_rows<A, K, D, S, kRows>(source, grad, row, first, grad_taps, width);
  if constexpr (K % kRows != 0)
    weight_gradient_rows<A, K, D, S, K % kRows>(source, grad, row, first, grad_taps, width);
}

template <class A, int K, int D, int S>
void use_fixed(Geometry geometry, RowKernels<A>& kernels) {
  static_assert(K / 2 * D <= kNear, "all of its taps are in");
  if (geometry.kernel == K && geometry.dilation == D && geometry.stride == S)
    kernels = {convolve_fixed<A, Gather, K, D, S>, convolve_fixed<A, Scatter, K, D, S>,
               weight_gradient_fixed<A, K, D, S>};
}

template <class A>
RowKernels<A> row_kernels(Geometry geometry) {
  RowKernels<A> kernels = {convolve<A, Gather>, convolve<A, Scatter>, weight_gradient<A>};
  if constexpr (std::is_same_v<A, float>) {
    use_fixed<A, 3, 1, 1>(geometry, kernels);
    use_fixed<A, 5, 1, 1>(geometry, kernels);
    use_fixed<A, 7, 1, 1>(geometry, kernels);
    use_fixed<A, 3, 2, 1>(geometry, kernels);
    use_fixed<A, 5, 2, 1>(geometry, kernels);
    use_fixed<A, 3, 1, 2>(geometry, kernels);
    use_fixed<A, 5, 1, 2>(geometry, kernels);
    use_fixed<A, 7, 1, 2>(geometry, kernels);
    use_fixed<A, 3, 2, 2>(geometry, kernels);
    use_fixed<A, 5, 2, 2>(geometry, kernels);
  }
  return kernels;
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
