// Tables of one value per channel are spread over the lanes of a run, and summed up from them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../always_inline.h"
#include "../lane_grid.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// table = the sum over groups of their rows, each `pitch` after the last
inline void add_up(double* table, const double* rows, int64_t groups, int64_t pitch,
                   int64_t channels) {
  std::fill_n(table, channels, 0.0);
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t c = 0; c < channels; ++c) table[c] += rows[group * pitch + c];
}

// lanes[i] = table[channel of lane i]
template <class T>
void expand(T* lanes, const T* table, const LaneRun& run) {
  if (run.width == 1)
    std::copy_n(table + run.first, run.channels, lanes);
  else
    for (int64_t c = 0; c < run.channels; ++c)
      std::fill_n(lanes + c * run.width, run.width, table[run.first + c]);
  for (int64_t filled = run.channels * run.width; filled < run.lanes; filled *= 2)
    std::copy_n(lanes, std::min(filled, run.lanes - filled), lanes + filled);
}

// Row `row` of tables [.., channels], spread over the lanes of a run.
template <class Acc>
struct Lanes {
  alignas(64) Acc values[kMaxLanes];

  ASOSE_INLINE Lanes(const void* tables, int64_t row, const ChannelSpace& space,
                     const LaneRun& run) {
    expand(values, static_cast<const Acc*>(tables) + row * space.channels, run);
  }
  ASOSE_INLINE Acc operator[](int64_t i) const { return values[i]; }
};

// table[channel] = sum of its lanes, which are used up
inline void fold(double* table, double* lanes, const LaneRun& run) {
  const int64_t image = run.channels * run.width;
  for (int64_t length = run.lanes; length > image;) {
    const int64_t kept = (length / image + 1) / 2 * image;
    for (int64_t i = kept; i < length; ++i) lanes[i - kept] += lanes[i];
    length = kept;
  }
  if (run.width == 1) {
    std::copy_n(lanes, run.channels, table + run.first);
    return;
  }
  for (int64_t c = 0; c < run.channels; ++c) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < run.width; ++i) sum += lanes[c * run.width + i];
    table[run.first + c] = sum;
  }
}

// table[channel] += sum of its lanes
template <class Acc>
void add_folded(double* table, const Acc* lanes, const LaneRun& run) {
  alignas(64) double wide[kMaxLanes], sums[kMaxLanes];
  std::copy_n(lanes, run.lanes, wide);
  LaneRun here = run;
  here.first = 0;
  fold(sums, wide, here);
  for (int64_t c = 0; c < run.channels; ++c) table[run.first + c] += sums[c];
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
