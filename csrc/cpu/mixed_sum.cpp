// Weighted sum on the CPU: every input is read once, block by block, while the block's sum stays in
// the L1 cache.
#include "../mixed_sum.h"

#include <cstdint>

#include "element.h"
#include "stream.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// A run of elements within one row: where it starts in every tensor, and how long it is.
struct Run {
  int64_t row;
  int64_t begin;
  int64_t length;
};

template <class T>
struct Strided {
  T* data;
  int64_t stride;
};

template <class T>
Strided<T> locate(const Operand& operand, const IterationSpace& space, const Run& run) {
  int64_t row = run.row, offset = 0;
  for (int d = space.dims - 2; d >= 0; --d) {
    offset += row % space.sizes[d] * operand.strides[d];
    row /= space.sizes[d];
  }
  const int64_t stride = space.dims ? operand.strides[space.dims - 1] : 1;
  return {static_cast<T*>(operand.data) + offset + run.begin * stride, stride};
}

// Calls body(run) for the runs of one task.
template <class Body>
void for_each_run(const TaskGrid& grid, int64_t task, Body body) {
  if (grid.tasks_per_row > 1) {
    const int64_t begin = task % grid.tasks_per_row * kTaskElements;
    const int64_t rest = grid.row_length - begin;
    body(Run{task / grid.tasks_per_row, begin, rest < kTaskElements ? rest : kTaskElements});
    return;
  }
  const int64_t first = task * grid.rows_per_task;
  const int64_t last =
      first + grid.rows_per_task < grid.rows ? first + grid.rows_per_task : grid.rows;
  for (int64_t row = first; row < last; ++row) body(Run{row, 0, grid.row_length});
}

template <class T, class Acc>
void scale(Acc* sum, Strided<const T> x, Acc weight, int64_t length) {
  if (x.stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) sum[i] = weight * Element<T>::load(x.data[i]);
  } else {
    for (int64_t i = 0; i < length; ++i) sum[i] = weight * Element<T>::load(x.data[i * x.stride]);
  }
}

template <class T, class Acc>
void add_scaled(Acc* sum, Strided<const T> x, Acc weight, int64_t length) {
  if (x.stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) sum[i] += weight * Element<T>::load(x.data[i]);
  } else {
    for (int64_t i = 0; i < length; ++i) sum[i] += weight * Element<T>::load(x.data[i * x.stride]);
  }
}

template <class T, class Acc>
Acc dot(const Acc* grad, Strided<const T> x, int64_t length) {
  Acc sum = 0;
  if (x.stride == 1) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < length; ++i) sum += grad[i] * Element<T>::load(x.data[i]);
  } else {
    for (int64_t i = 0; i < length; ++i) sum += grad[i] * Element<T>::load(x.data[i * x.stride]);
  }
  return sum;
}

template <class T, class Acc>
void write(Strided<T> out, const Acc* values, Acc weight, int64_t length, bool streaming) {
  if (out.stride == 1 && streaming) {
    alignas(64) T block[kTaskElements];
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) block[i] = Element<T>::store(weight * values[i]);
    stream(out.data, block, length);
  } else if (out.stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) out.data[i] = Element<T>::store(weight * values[i]);
  } else {
    for (int64_t i = 0; i < length; ++i)
      out.data[i * out.stride] = Element<T>::store(weight * values[i]);
  }
}

template <class T>
void forward(const MixedSumForward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const TaskGrid grid(args.space);
  const Acc* weights = static_cast<const Acc*>(args.weights);
  int used[kMaxInputs], used_count = 0;
  for (int k = 0; k < args.inputs; ++k)
    if (weights[k] != 0) used[used_count++] = k;

  const bool streaming = grid.elements() * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
  const int64_t tasks = grid.tasks();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < tasks; ++task) {
    alignas(64) Acc sum[kTaskElements];
    for_each_run(grid, task, [&](const Run& run) {
      if (!used_count)
        for (int64_t i = 0; i < run.length; ++i) sum[i] = 0;
      for (int j = 0; j < used_count; ++j) {
        const auto x = locate<const T>(args.x[used[j]], args.space, run);
        if (j == 0)
          scale<T>(sum, x, weights[used[j]], run.length);
        else
          add_scaled<T>(sum, x, weights[used[j]], run.length);
      }
      write(locate<T>(args.y, args.space, run), sum, Acc{1}, run.length, streaming);
    });
    if (streaming) end_stream();
  }
}

template <class T>
void backward(const MixedSumBackward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const TaskGrid grid(args.space);
  const Acc* weights = static_cast<const Acc*>(args.weights);
  int64_t written = 0;
  for (int k = 0; k < args.inputs; ++k)
    if (args.grad_x[k].data) written += grid.elements() * sizeof(T);
  const bool streaming = written >= kStreamBytes;
  const int64_t tasks = grid.tasks();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < tasks; ++task) {
    alignas(64) Acc grad[kTaskElements];
    double dots[kMaxInputs] = {};
    for_each_run(grid, task, [&](const Run& run) {
      scale<T>(grad, locate<const T>(args.grad, args.space, run), Acc{1}, run.length);
      for (int k = 0; k < args.inputs; ++k) {
        if (args.partials)
          dots[k] += dot<T>(grad, locate<const T>(args.x[k], args.space, run), run.length);
        if (!args.grad_x[k].data) continue;
        const auto grad_x = locate<T>(args.grad_x[k], args.space, run);
        if (weights[k] != 0)
          write(grad_x, grad, weights[k], run.length, streaming);
        else
          for (int64_t i = 0; i < run.length; ++i)
            grad_x.data[i * grad_x.stride] = Element<T>::store(0);
      }
    });
    if (streaming) end_stream();
    if (args.partials)
      for (int k = 0; k < args.inputs; ++k) args.partials[task * args.inputs + k] = dots[k];
  }
  if (!args.partials) return;
  for (int k = 0; k < args.inputs; ++k) {
    double sum = 0;
    for (int64_t task = 0; task < tasks; ++task) sum += args.partials[task * args.inputs + k];
    static_cast<Acc*>(args.grad_weights)[k] = static_cast<Acc>(sum);
  }
}

}  // namespace

void mixed_sum_forward(const MixedSumForward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void mixed_sum_backward(const MixedSumBackward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
