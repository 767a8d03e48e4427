// What one batch norm of a tensor normalises by.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../batch_statistics.h"
#include "../lane_grid.h"
#include "../norm_tables.h"
#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// What the variance of a batch is multiplied by for the running one.
inline double unbiased(const ChannelSpace& space) {
  const int64_t values = space.outer * space.inner;
  return static_cast<double>(values) / static_cast<double>(std::max<int64_t>(1, values - 1));
}

// `partials` and `statistics` are those of batch_statistics, which is not called where the norm has
// running statistics to use.
template <class T>
void measure(DType dtype, const ChannelSpace& space, const void* x, RunningNorm norm,
             double* partials, double* statistics, double* mean, double* rstd, int threads) {
  constexpr DType kWide = sizeof(typename Element<T>::Acc) == 8 ? DType::f64 : DType::f32;
  if (norm.of_batch) {
    double* var = statistics + space.channels;
    batch_statistics({dtype, space, 1, &x, partials, statistics, var}, threads);
    norm.batch_mean = statistics, norm.batch_var = var;
  }
  norm_tables({kWide, 1, space.channels, &norm, unbiased(space), mean, rstd}, threads);
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
