// Norms whose statistics are known, as affine maps of one channel: scale (z - center) + shift.
#pragma once

#include <cstdint>

#include "../mixed_norm_sum.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// w_k gamma_kc rstd_kc, or w_k where nothing is folded in.
inline double scale_of(const FoldedNorms& norms, double weight, int k, int64_t at) {
  if (weight == 0 || k >= norms.count) return weight;
  return weight * norms.rstd[at] * (norms.gamma ? norms.gamma[at] : 1);
}

// The mean as the kernels' arithmetic can hold it. What it lacks is small, but not beside the
// standard deviation where the mean is large.
template <class Acc>
Acc center_of(const FoldedNorms& norms, int k, int64_t at) {
  return k < norms.count ? static_cast<Acc>(norms.mean[at]) : Acc{0};
}

// What the statistics of the batch add to dL/dz = scale g: slope (z - center) + shift.
struct ThroughBatch {
  double slope, shift;

  // s0 = sum g and s1 = sum g xhat over `count` values; `rest` is mean - center.
  static ThroughBatch of(double scale, double rstd, double rest, double s0, double s1,
                         double count) {
    const double share = scale / count, slope = -share * rstd * s1;
    return {slope, -share * s0 - slope * rest};
  }
};

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
