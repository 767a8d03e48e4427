// The gradient of a batch norm's input from that of its output, pixel by pixel.
#pragma once

#include <cstdint>

#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// dL/dz = scale * g + slope * (z - center) + shift, for a vector of channels.
template <class A>
struct NormGradient {
  Vector<A> scale, center, slope, shift;

  // Rows [0, 4) of `table`, [4, channels], from channel `first` on.
  static NormGradient from(const A* table, int64_t channels, int64_t first, int lanes) {
    const auto row = [&](int i) { return load(table + i * channels + first, lanes); };
    return {row(0), row(1), row(2), row(3)};
  }

  Vector<A> operator()(Vector<A> g) const { return scale * g; }
  // Bracketed so that it is rounded alike wherever products and sums are contracted.
  Vector<A> operator()(Vector<A> g, Vector<A> z) const {
    return scale * g + (slope * (z - center) + shift);
  }
};

// What the statistics of the batch add to dL/dz = scale g: slope (z - center) + shift.
struct ThroughBatch {
  double slope, shift;

  // s0 = sum g and s1 = sum g xhat over `count` values; `rest` is mean - center.
  static inline ThroughBatch of(double scale, double rstd, double rest, double s0, double s1,
                                double count) {
    const double share = scale / count, slope = -share * rstd * s1;
    return {slope, -share * s0 - slope * rest};
  }
};

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
