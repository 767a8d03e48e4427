// Batch-norm-folded weighted sum on the CPU: run by run, every tensor is read once a pass.
#include "../mixed_norm_sum.h"

#include <algorithm>
#include <cstdint>

#include "channel_tables.h"
#include "element.h"
#include "norm_gradient.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// w_k gamma_kc rstd_kc, or w_k where nothing is folded in.
double scale_of(const FoldedNorms& norms, double weight, int k, int64_t at) {
  if (weight == 0 || k >= norms.count) return weight;
  return weight * norms.rstd[at] * (norms.gamma ? norms.gamma[at] : 1);
}

// The mean as the kernels' arithmetic can hold it. What it lacks is small, but not beside the
// standard deviation where the mean is large.
template <class Acc>
Acc center_of(const FoldedNorms& norms, int k, int64_t at) {
  return k < norms.count ? static_cast<Acc>(norms.mean[at]) : Acc{0};
}

template <class T>
void forward(const MixedNormSumForward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const LaneGrid grid(args.space, 0);
  const Acc* weights = static_cast<const Acc*>(args.weights);
  const int64_t runs = grid.runs(), channels = args.space.channels;
  Acc* scales = static_cast<Acc*>(args.tables);
  Acc *centers = scales + args.inputs * channels, *shifts = centers + args.inputs * channels;
  for (int64_t c = 0; c < channels; ++c) {
    double shift = 0;
    for (int k = 0; k < args.inputs; ++k) {
      const int64_t at = k * channels + c;
      const double scale = scale_of(args.norms, weights[k], k, at);
      const Acc center = center_of<Acc>(args.norms, k, at);
      scales[at] = static_cast<Acc>(scale), centers[at] = center;
      if (k >= args.norms.count || weights[k] == 0) continue;
      shift -= scale * (args.norms.mean[at] - center);
      if (args.norms.beta) shift += weights[k] * args.norms.beta[at];
    }
    shifts[c] = static_cast<Acc>(shift);
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t index = 0; index < runs; ++index) {
    const LaneRun run = grid.run(index);
    alignas(64) Acc sum[kBlockElements];
    const Lanes<Acc> shift(shifts, 0, args.space, run);
    const Acc* so_far = shift.values;
    int64_t step = 0;  // between its rows
    for (int k = 0; k < args.inputs; ++k) {
      if (weights[k] == 0) continue;
      const Lanes<Acc> scale(scales, k, args.space, run);
      const Lanes<Acc> center(centers, k, args.space, run);
      const T* z = static_cast<const T*>(args.z[k]) + run.offset;
      for (int64_t r = 0; r < run.rows; ++r) {
        const Acc* before = so_far + r * step;
        Acc* row = sum + r * run.lanes;
#pragma omp simd
        for (int64_t i = 0; i < run.lanes; ++i)
          row[i] = before[i] + scale[i] * (Element<T>::load(z[r * run.pitch + i]) - center[i]);
      }
      so_far = sum, step = run.lanes;
    }
    T* y = static_cast<T*>(args.y) + run.offset;
    for (int64_t r = 0; r < run.rows; ++r) {
#pragma omp simd
      for (int64_t i = 0; i < run.lanes; ++i)
        y[r * run.pitch + i] = Element<T>::store(so_far[r * step + i]);
    }
  }
}

// Rows of tables[k].
enum TableRow { kScale, kCenter, kSlope, kShift, kTableRows };

// Sums of one run: g where z is null, else g (z - center).
template <class T>
void sum_run(double* sums, const T* grad, const T* z, const void* tables, int64_t k,
             const ChannelSpace& space, const LaneRun& run) {
  using Acc = typename Element<T>::Acc;
  alignas(64) Acc sum[kMaxLanes];
  std::fill_n(sum, run.lanes, Acc{0});
  if (z) {
    const Lanes<Acc> centers(tables, k * kTableRows + kCenter, space, run);
    for (int64_t r = 0; r < run.rows; ++r) {
      const T* g = grad + run.offset + r * run.pitch;
      const T* row = z + run.offset + r * run.pitch;
#pragma omp simd
      for (int64_t i = 0; i < run.lanes; ++i)
        sum[i] += Element<T>::load(g[i]) * (Element<T>::load(row[i]) - centers[i]);
    }
  } else {
    for (int64_t r = 0; r < run.rows; ++r) {
      const T* g = grad + run.offset + r * run.pitch;
#pragma omp simd
      for (int64_t i = 0; i < run.lanes; ++i) sum[i] += Element<T>::load(g[i]);
    }
  }
  alignas(64) double wide[kMaxLanes];
  std::copy_n(sum, run.lanes, wide);
  fold(sums, wide, run);
}

template <class T>
void reduce(const MixedNormSumBackward& args, int threads) {
  const LaneGrid grid(args.space, kSumRows);
  const T* grad = static_cast<const T*>(args.grad);
  const int64_t channels = args.space.channels, runs = grid.runs(), groups = grid.groups();
  const int columns = 1 + args.inputs;
  const auto z = [&](int column) {
    return column ? static_cast<const T*>(args.z[column - 1]) : nullptr;
  };
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t index = 0; index < runs; ++index) {
      const LaneRun run = grid.run(index);
      double* partial = args.partials + run.group * columns * channels;
      for (int column = 0; column < columns; ++column)
        if (column == 0 || z(column))
          sum_run(partial + column * channels, grad, z(column), args.tables, column - 1, args.space,
                  run);
    }
#pragma omp for schedule(static)
    for (int column = 0; column < columns; ++column) {
      double* sums = args.sums + column * channels;
      const bool read = !column || z(column);
      add_up(sums, args.partials + column * channels, read ? groups : 0, columns * channels,
             channels);
    }
  }
}

// The tables, and the sums about means instead of centres.
template <class Acc>
void finish_tables(const MixedNormSumBackward& args) {
  const int64_t channels = args.space.channels;
  const double count = static_cast<double>(args.space.outer * args.space.inner);
  for (int k = 0; k < args.norms.count; ++k) {
    Acc* table = static_cast<Acc*>(args.tables) + k * kTableRows * channels;
    double* s1 = args.sums + (1 + k) * channels;
    const double weight = static_cast<const Acc*>(args.weights)[k];
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = k * channels + c;
      const double rest = args.norms.mean[at] - table[kCenter * channels + c];
      if (args.z[k]) s1[c] = (s1[c] - rest * args.sums[c]) * args.norms.rstd[at];
      if (weight == 0 || !args.of_batch[k]) continue;
      const auto [slope, shift] =
          ThroughBatch::of(scale_of(args.norms, weight, k, at), args.norms.rstd[at], rest,
                           args.sums[c], s1[c], count);
      table[kSlope * channels + c] = static_cast<Acc>(slope);
      table[kShift * channels + c] = static_cast<Acc>(shift);
    }
  }
}

template <class Acc>
void gradient_of_weights(const MixedNormSumBackward& args) {
  const int64_t channels = args.space.channels;
  const auto read = [](const double* table, int64_t at, double none) {
    return table ? table[at] : none;
  };
  for (int k = 0; k < args.inputs; ++k) {
    const double* const s1 = args.sums + (1 + k) * channels;
    double sum = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = k * channels + c;
      sum += k < args.norms.count ? read(args.norms.gamma, at, 1) * s1[c] +
                                        read(args.norms.beta, at, 0) * args.sums[c]
                                  : s1[c];
    }
    static_cast<Acc*>(args.grad_weights)[k] = static_cast<Acc>(sum);
  }
}

template <class T>
void backward(const MixedNormSumBackward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const LaneGrid grid(args.space, 0);
  const Acc* weights = static_cast<const Acc*>(args.weights);
  const int64_t runs = grid.runs(), channels = args.space.channels;
  for (int k = 0; k < args.inputs; ++k) {
    Acc* table = static_cast<Acc*>(args.tables) + k * kTableRows * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = k * channels + c;
      table[kScale * channels + c] = static_cast<Acc>(scale_of(args.norms, weights[k], k, at));
      table[kCenter * channels + c] = center_of<Acc>(args.norms, k, at);
      table[kSlope * channels + c] = table[kShift * channels + c] = 0;
    }
  }
  if (args.sums) {
    reduce<T>(args, threads);
    finish_tables<Acc>(args);
    if (args.grad_weights) gradient_of_weights<Acc>(args);
  }
  if (std::all_of(args.grad_z, args.grad_z + args.inputs, [](void* to) { return !to; })) return;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t index = 0; index < runs; ++index) {
    const LaneRun run = grid.run(index);
    const T* grad = static_cast<const T*>(args.grad) + run.offset;
    for (int k = 0; k < args.inputs; ++k) {
      if (!args.grad_z[k]) continue;
      T* grad_z = static_cast<T*>(args.grad_z[k]) + run.offset;
      if (weights[k] == 0) {
        for (int64_t r = 0; r < run.rows; ++r)
          std::fill_n(grad_z + r * run.pitch, run.lanes, Element<T>::store(0));
        continue;
      }
      const auto row = [&](TableRow row) {
        return Lanes<Acc>(args.tables, k * kTableRows + row, args.space, run);
      };
      const Lanes<Acc> scale = row(kScale);
      if (k >= args.norms.count || !args.of_batch[k]) {
        for (int64_t r = 0; r < run.rows; ++r) {
          const int64_t at = r * run.pitch;
#pragma omp simd
          for (int64_t i = 0; i < run.lanes; ++i)
            grad_z[at + i] = Element<T>::store(scale[i] * Element<T>::load(grad[at + i]));
        }
        continue;
      }
      const Lanes<Acc> center = row(kCenter), slope = row(kSlope), shift = row(kShift);
      const T* z = static_cast<const T*>(args.z[k]) + run.offset;
      for (int64_t r = 0; r < run.rows; ++r) {
        const int64_t at = r * run.pitch;
#pragma omp simd
        for (int64_t i = 0; i < run.lanes; ++i)
          grad_z[at + i] =
              Element<T>::store(scale[i] * Element<T>::load(grad[at + i]) +
                                (slope[i] * (Element<T>::load(z[at + i]) - center[i]) + shift[i]));
      }
    }
  }
}

}  // namespace

void mixed_norm_sum_forward(const MixedNormSumForward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void mixed_norm_sum_backward(const MixedNormSumBackward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
