// Batch-norm-folded weighted sum on the CPU: run by run, every tensor is read once a pass.
#include "../mixed_norm_sum.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "lanes.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// One channel table of a run, spread over the lanes.
template <class Acc>
struct Lanes {
  alignas(64) Acc values[kMaxLanes];

  Lanes(const void* table, int64_t row, const ChannelSpace& space, const LaneRun& run) {
    expand(values, static_cast<const Acc*>(table) + row * space.channels, run);
  }
  Acc operator[](int64_t i) const { return values[i]; }
};

template <class T>
void forward(const MixedNormSumForward& args) {
  using Acc = typename Element<T>::Acc;
  const LaneGrid grid(args.space, 0);
  const Acc* weights = static_cast<const Acc*>(args.weights);
  const int64_t runs = grid.runs();
#pragma omp parallel for schedule(static) num_threads(args.threads)
  for (int64_t index = 0; index < runs; ++index) {
    const LaneRun run = grid.run(index);
    alignas(64) Acc sum[kBlockElements];
    const Lanes<Acc> shift(args.shift, 0, args.space, run);
    for (int64_t r = 0; r < run.rows; ++r)
      std::copy_n(shift.values, run.lanes, sum + r * run.lanes);
    for (int k = 0; k < args.inputs; ++k) {
      if (weights[k] == 0) continue;
      const Lanes<Acc> scale(args.scale, k, args.space, run);
      const Lanes<Acc> center(args.center, k, args.space, run);
      const T* z = static_cast<const T*>(args.z[k]) + run.offset;
      for (int64_t r = 0; r < run.rows; ++r) {
        Acc* row = sum + r * run.lanes;
#pragma omp simd
        for (int64_t i = 0; i < run.lanes; ++i)
          row[i] += scale[i] * (Element<T>::load(z[r * run.pitch + i]) - center[i]);
      }
    }
    T* y = static_cast<T*>(args.y) + run.offset;
    for (int64_t r = 0; r < run.rows; ++r) {
#pragma omp simd
      for (int64_t i = 0; i < run.lanes; ++i)
        y[r * run.pitch + i] = Element<T>::store(sum[r * run.lanes + i]);
    }
  }
}

// Sums of one run: g where z is null, else g (z - center).
template <class T>
void sum_run(double* sums, const T* grad, const T* z, const void* center, int64_t k,
             const ChannelSpace& space, const LaneRun& run) {
  using Acc = typename Element<T>::Acc;
  alignas(64) Acc sum[kMaxLanes];
  std::fill_n(sum, run.lanes, Acc{0});
  if (z) {
    const Lanes<Acc> centers(center, k, space, run);
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
void reduce(const MixedNormSumReduce& args) {
  const LaneGrid grid(args.space, kSumRows);
  const T* grad = static_cast<const T*>(args.grad);
  const int64_t channels = args.space.channels, runs = grid.runs(), groups = grid.groups();
  const int columns = 1 + args.inputs;
  const auto z = [&](int column) {
    return column ? static_cast<const T*>(args.z[column - 1]) : nullptr;
  };
#pragma omp parallel num_threads(args.threads)
  {
#pragma omp for schedule(static)
    for (int64_t index = 0; index < runs; ++index) {
      const LaneRun run = grid.run(index);
      double* partial = args.partials + run.group * columns * channels;
      for (int column = 0; column < columns; ++column)
        if (column == 0 || z(column))
          sum_run(partial + column * channels, grad, z(column), args.center, column - 1, args.space,
                  run);
    }
#pragma omp for schedule(static)
    for (int column = 0; column < columns; ++column) {
      double* sums = args.sums + column * channels;
      std::fill_n(sums, channels, 0.0);
      if (column && !z(column)) continue;
      for (int64_t group = 0; group < groups; ++group) {
        const double* partial = args.partials + (group * columns + column) * channels;
        for (int64_t c = 0; c < channels; ++c) sums[c] += partial[c];
      }
    }
  }
}

template <class T>
void backward(const MixedNormSumBackward& args) {
  using Acc = typename Element<T>::Acc;
  const LaneGrid grid(args.space, 0);
  const Acc* weights = static_cast<const Acc*>(args.weights);
  const int64_t runs = grid.runs();
#pragma omp parallel for schedule(static) num_threads(args.threads)
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
      const Lanes<Acc> scale(args.scale, k, args.space, run);
      if (!args.z[k]) {
        for (int64_t r = 0; r < run.rows; ++r) {
          const int64_t at = r * run.pitch;
#pragma omp simd
          for (int64_t i = 0; i < run.lanes; ++i)
            grad_z[at + i] = Element<T>::store(scale[i] * Element<T>::load(grad[at + i]));
        }
        continue;
      }
      const Lanes<Acc> center(args.center, k, args.space, run);
      const Lanes<Acc> slope(args.slope, k, args.space, run);
      const Lanes<Acc> shift(args.shift, k, args.space, run);
      const T* z = static_cast<const T*>(args.z[k]) + run.offset;
      for (int64_t r = 0; r < run.rows; ++r) {
        const int64_t at = r * run.pitch;
#pragma omp simd
        for (int64_t i = 0; i < run.lanes; ++i)
          grad_z[at + i] =
              Element<T>::store(scale[i] * Element<T>::load(grad[at + i]) +
                                slope[i] * (Element<T>::load(z[at + i]) - center[i]) + shift[i]);
      }
    }
  }
}

}  // namespace

void mixed_norm_sum_forward(const MixedNormSumForward& args) {
  switch (args.dtype) {
    case DType::f32:
      return forward<float>(args);
    case DType::f64:
      return forward<double>(args);
    case DType::bf16:
      return forward<bfloat16>(args);
    case DType::f16:
      break;
  }
  throw std::invalid_argument("mixed_norm_sum: unknown element type");
}

void mixed_norm_sum_reduce(const MixedNormSumReduce& args) {
  switch (args.dtype) {
    case DType::f32:
      return reduce<float>(args);
    case DType::f64:
      return reduce<double>(args);
    case DType::bf16:
      return reduce<bfloat16>(args);
    case DType::f16:
      break;
  }
  throw std::invalid_argument("mixed_norm_sum: unknown element type");
}

void mixed_norm_sum_backward(const MixedNormSumBackward& args) {
  switch (args.dtype) {
    case DType::f32:
      return backward<float>(args);
    case DType::f64:
      return backward<double>(args);
    case DType::bf16:
      return backward<bfloat16>(args);
    case DType::f16:
      break;
  }
  throw std::invalid_argument("mixed_norm_sum: unknown element type");
}

}  // namespace asose::cpu::ASOSE_ISA
