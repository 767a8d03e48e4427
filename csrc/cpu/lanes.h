// Between tables of one value per channel and the lanes of a run.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../lanes.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// lanes[i] = table[channel of lane i]
template <class T>
void expand(T* lanes, const T* table, const LaneRun& run) {
  std::copy_n(table + run.first, run.channels, lanes);
  for (int64_t filled = run.channels; filled < run.lanes; filled *= 2)
    std::copy_n(lanes, std::min(filled, run.lanes - filled), lanes + filled);
}

// table[channel] = sum of its lanes, added pairwise; uses up the lanes.
inline void fold(double* table, double* lanes, const LaneRun& run) {
  for (int64_t width = run.lanes; width > run.channels;) {
    const int64_t kept = (width / run.channels + 1) / 2 * run.channels;
    for (int64_t i = kept; i < width; ++i) lanes[i - kept] += lanes[i];
    width = kept;
  }
  std::copy_n(lanes, run.channels, table + run.first);
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
