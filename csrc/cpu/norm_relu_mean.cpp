// Norm, ReLU and global mean on the CPU. Forward keeps what the ReLU lets through of every channel
// of every image, from which backward knows the sums of the norm without a pass.
#include "../norm_relu_mean.h"

#include <algorithm>
#include <cstdint>

#include "channel_tables.h"
#include "element.h"
#include "measured_norm.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Rows of the tables: BN(x) = scale (x - center) + bias. Backward, those below follow, and then one
// for each image: the gradient of x is that where the ReLU lets through, + slope (x - center) +
// shift.
enum TableRow { kScale, kCenter, kBias, kSlope, kShift, kBackwardRows };

ChannelSpace image_space(const ChannelSpace& space, int64_t images) {
  return {space.outer / images, space.channels, space.inner};
}

// The first three rows; args are those of either pass. `rest` is what the center lacks of the mean.
template <class Acc, class Args>
void normalise(const Args& args, Acc* tables) {
  const int64_t channels = args.space.channels;
  for (int64_t c = 0; c < channels; ++c) {
    const double scale = args.rstd[c] * (args.gamma ? args.gamma[c] : 1);
    const Acc center = static_cast<Acc>(args.mean[c]);
    const double bias = (args.beta ? args.beta[c] : 0) - scale * (args.mean[c] - center);
    tables[kScale * channels + c] = static_cast<Acc>(scale);
    tables[kCenter * channels + c] = center;
    tables[kBias * channels + c] = static_cast<Acc>(bias);
  }
}

// Whether the ReLU lets BN(x) through, which a NaN is.
template <class Acc>
ASOSE_INLINE bool passes(Acc distance, Acc scale, Acc bias) {
  return !(scale * distance + bias <= 0);
}

// count[c] and sum[c] of x - center over the pixels of an image that the ReLU lets through.
template <class T>
void sum_active(const T* x, const ChannelSpace& space, const LaneGrid& grid, const void* tables,
                double* count, double* sum) {
  using Acc = typename Element<T>::Acc;
  std::fill_n(count, space.channels, 0.0);
  std::fill_n(sum, space.channels, 0.0);
  for (int64_t index = 0; index < grid.runs(); ++index) {
    const LaneRun run = grid.run(index);
    const Lanes<Acc> scale(tables, kScale, space, run), center(tables, kCenter, space, run),
        bias(tables, kBias, space, run);
    alignas(64) Acc counts[kMaxLanes] = {}, sums[kMaxLanes] = {};
    for (int64_t r = 0; r < run.rows; ++r) {
      const T* row = x + run.offset + r * run.pitch;
#pragma omp simd
      for (int64_t i = 0; i < run.lanes; ++i) {
        const Acc distance = Element<T>::load(row[i]) - center[i];
        const bool active = passes(distance, scale[i], bias[i]);
        counts[i] += active ? Acc{1} : Acc{0};
        sums[i] += active ? distance : Acc{0};
      }
    }
    add_folded(count, counts, run);
    add_folded(sum, sums, run);
  }
}

template <class T>
void forward(const NormReluMeanForward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const int64_t channels = args.space.channels;
  if (args.norm.of_batch || args.norm.mean) {
    measure<T>(args.dtype, args.space, args.x, args.norm, args.partials, args.statistics, args.mean,
               args.rstd, threads);
  } else {
    std::fill_n(args.mean, channels, 0.0);
    std::fill_n(args.rstd, channels, 1.0);
  }
  normalise(args, static_cast<Acc*>(args.tables));
  const ChannelSpace image = image_space(args.space, args.images);
  const LaneGrid grid(image, kSumRows);
  const double pixels = static_cast<double>(image.outer * image.inner);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t n = 0; n < args.images; ++n) {
    double *count = args.active + n * channels, *sum = count + args.images * channels;
    const T* x = static_cast<const T*>(args.x) + n * channels * image.outer * image.inner;
    sum_active(x, image, grid, args.tables, count, sum);
    T* y = static_cast<T*>(args.y) + n * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const double rest = args.mean[c] - static_cast<Acc>(args.mean[c]);
      sum[c] -= rest * count[c];
      double total = args.rstd[c] * (args.gamma ? args.gamma[c] : 1) * sum[c];
      if (args.beta) total += args.beta[c] * count[c];
      y[c] = Element<T>::store(static_cast<Acc>(total / pixels));
    }
  }
}

// S0 = sum dL/dBN(x) and S1 = sum dL/dBN(x) xhat.
template <class T>
void sum_gradients(const NormReluMeanBackward& args, double pixels) {
  const int64_t channels = args.space.channels;
  double *s0 = args.sums, *s1 = s0 + channels;
  std::fill_n(args.sums, 2 * channels, 0.0);
  for (int64_t n = 0; n < args.images; ++n) {
    const T* grad = static_cast<const T*>(args.grad) + n * channels;
    const double *count = args.active + n * channels, *sum = count + args.images * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const double g = count[c] ? Element<T>::load(grad[c]) / pixels : 0;
      s0[c] += g * count[c];
      s1[c] += g * sum[c] * args.rstd[c];
    }
  }
}

template <class T>
void grad_image(const NormReluMeanBackward& args, const ChannelSpace& image, const LaneGrid& grid,
                int64_t n) {
  using Acc = typename Element<T>::Acc;
  const int64_t start = n * image.channels * image.outer * image.inner;
  for (int64_t index = 0; index < grid.runs(); ++index) {
    const LaneRun run = grid.run(index);
    const auto row = [&](int64_t row) { return Lanes<Acc>(args.tables, row, image, run); };
    const Lanes<Acc> scale = row(kScale), center = row(kCenter), bias = row(kBias);
    const Lanes<Acc> through = row(kBackwardRows + n);
    const T* x = static_cast<const T*>(args.x) + start + run.offset;
    T* grad_x = static_cast<T*>(args.grad_x) + start + run.offset;
    if (!args.of_batch) {
      for (int64_t r = 0; r < run.rows; ++r) {
        const int64_t at = r * run.pitch;
#pragma omp simd
        for (int64_t i = 0; i < run.lanes; ++i)
          grad_x[at + i] = Element<T>::store(
              passes(Element<T>::load(x[at + i]) - center[i], scale[i], bias[i]) ? through[i]
                                                                                 : Acc{0});
      }
      continue;
    }
    const Lanes<Acc> slope = row(kSlope), shift = row(kShift);
    for (int64_t r = 0; r < run.rows; ++r) {
      const int64_t at = r * run.pitch;
#pragma omp simd
      for (int64_t i = 0; i < run.lanes; ++i) {
        const Acc distance = Element<T>::load(x[at + i]) - center[i];
        const Acc active = passes(distance, scale[i], bias[i]) ? through[i] : Acc{0};
        grad_x[at + i] = Element<T>::store(active + slope[i] * distance + shift[i]);
      }
    }
  }
}

template <class T>
void backward(const NormReluMeanBackward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const ChannelSpace image = image_space(args.space, args.images);
  const int64_t channels = image.channels;
  const double pixels = static_cast<double>(image.outer * image.inner);
  sum_gradients<T>(args, pixels);
  const double *s0 = args.sums, *s1 = s0 + channels;
  if (args.grad_gamma) std::copy_n(s1, channels, args.grad_gamma);
  if (args.grad_beta) std::copy_n(s0, channels, args.grad_beta);
  if (!args.grad_x) return;
  Acc* tables = static_cast<Acc*>(args.tables);
  normalise(args, tables);
  for (int64_t c = 0; c < channels; ++c) {
    const double scale = args.rstd[c] * (args.gamma ? args.gamma[c] : 1);
    const double share = scale / (pixels * static_cast<double>(args.images));
    const double slope = -share * args.rstd[c] * s1[c];
    const double rest = args.mean[c] - tables[kCenter * channels + c];
    tables[kSlope * channels + c] = static_cast<Acc>(slope);
    tables[kShift * channels + c] = static_cast<Acc>(-share * s0[c] - slope * rest);
  }
  for (int64_t n = 0; n < args.images; ++n) {
    const T* grad = static_cast<const T*>(args.grad) + n * channels;
    Acc* through = tables + (kBackwardRows + n) * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const double scale = args.rstd[c] * (args.gamma ? args.gamma[c] : 1);
      through[c] = static_cast<Acc>(scale * Element<T>::load(grad[c]) / pixels);
    }
  }
  const LaneGrid grid(image, kSumRows);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t n = 0; n < args.images; ++n) grad_image<T>(args, image, grid, n);
}

}  // namespace

void norm_relu_mean_forward(const NormReluMeanForward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void norm_relu_mean_backward(const NormReluMeanBackward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
