// Batch statistics on the CPU, in one pass over memory: squared deviations are taken within a run,
// about one of its own values, and runs are merged in float64 about their means (Chan, Golub and
// LeVeque, 1983), so that a large mean costs no digits of the variance.
#include "../batch_statistics.h"

#include <algorithm>
#include <cstdint>

#include "channel_tables.h"
#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Mean and sum of squared deviations of every lane. The first row is the shift: the sum of squares
// about one of n values is at most n + 1 times that about their mean, so little cancels.
template <class T>
void lane_statistics(const T* z, const LaneRun& run, double* mean, double* squares) {
  using Acc = typename Element<T>::Acc;
  alignas(64) Acc shift[kMaxLanes], sum[kMaxLanes], square[kMaxLanes];
  for (int64_t i = 0; i < run.lanes; ++i) {
    shift[i] = Element<T>::load(z[i]);
    sum[i] = square[i] = 0;
  }
  for (int64_t r = 1; r < run.rows; ++r) {
    const T* row = z + r * run.pitch;
#pragma omp simd
    for (int64_t i = 0; i < run.lanes; ++i) {
      const Acc deviation = Element<T>::load(row[i]) - shift[i];
      sum[i] += deviation;
      square[i] += deviation * deviation;
    }
  }
  const double rows = static_cast<double>(run.rows);
  for (int64_t i = 0; i < run.lanes; ++i) {
    const double total = sum[i];
    mean[i] = shift[i] + total / rows;
    squares[i] = std::max(square[i] - total * total / rows, 0.0);
  }
}

// Writes the mean and the squared deviations of the run's channels.
template <class T>
void run_statistics(const T* z, const LaneRun& run, double* mean, double* squares) {
  alignas(64) double means[kMaxLanes], deviations[kMaxLanes], buffer[kMaxLanes];
  lane_statistics(z + run.offset, run, means, deviations);
  std::copy_n(means, run.lanes, buffer);
  fold(mean, buffer, run);
  const double lanes_per_channel = static_cast<double>(run.lanes / run.channels);
  for (int64_t c = run.first; c < run.first + run.channels; ++c) mean[c] /= lanes_per_channel;
  expand(buffer, mean, run);
  for (int64_t i = 0; i < run.lanes; ++i) {
    const double distance = means[i] - buffer[i];
    deviations[i] += static_cast<double>(run.rows) * distance * distance;
  }
  fold(squares, deviations, run);
}

// Elements of a channel in every run of a group.
double group_size(const LaneGrid& grid, int64_t group) {
  const LaneRun run = grid.run(group * (grid.runs() / grid.groups()));
  return static_cast<double>(run.rows * (run.lanes / run.channels));
}

// Merges the groups of input k.
void merge(const BatchStatistics& args, const LaneGrid& grid, int k) {
  const int64_t channels = args.space.channels;
  const double count = static_cast<double>(args.space.outer * args.space.inner);
  double* mean = args.mean + k * channels;
  double* var = args.var + k * channels;
  std::fill_n(mean, channels, 0.0);
  std::fill_n(var, channels, 0.0);
  for (int64_t group = 0; group < grid.groups(); ++group) {
    const double share = group_size(grid, group) / count;
    const double* part = args.partials + (group * args.inputs + k) * 2 * channels;
    for (int64_t c = 0; c < channels; ++c) mean[c] += share * part[c];
  }
  for (int64_t group = 0; group < grid.groups(); ++group) {
    const double share = group_size(grid, group) / count;
    const double* part = args.partials + (group * args.inputs + k) * 2 * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const double distance = part[c] - mean[c];
      var[c] += part[channels + c] / count + share * distance * distance;
    }
  }
}

template <class T>
void statistics(const BatchStatistics& args, int threads) {
  const LaneGrid grid(args.space, kSumRows);
  const int64_t channels = args.space.channels, runs = grid.runs();
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t index = 0; index < runs; ++index) {
      const LaneRun run = grid.run(index);
      for (int k = 0; k < args.inputs; ++k) {
        double* partial = args.partials + (run.group * args.inputs + k) * 2 * channels;
        run_statistics(static_cast<const T*>(args.z[k]), run, partial, partial + channels);
      }
    }
#pragma omp for schedule(static)
    for (int k = 0; k < args.inputs; ++k) merge(args, grid, k);
  }
}

}  // namespace

void batch_statistics(const BatchStatistics& args, int threads) {
  with_element(args.dtype, [&](auto zero) { statistics<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
