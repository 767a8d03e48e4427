// y = sum_k w_k x_k, and in backward w_k g and <g, x_k> in one pass.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"

namespace asose {

constexpr int kMaxInputs = 128;
constexpr int kMaxDims = 8;

// One tensor; strides count elements, one per dimension of the iteration space.
struct Operand {
  void* data;
  const int64_t* strides;
};

// The iteration space is `sizes`, ordered so that y has stride 1 in the last dimension.
struct IterationSpace {
  int dims;
  const int64_t* sizes;
};

struct MixedSumForward {
  DType dtype;
  IterationSpace space;
  int inputs;
  const Operand* x;
  const void* weights;  // [inputs], in the accumulation type of dtype
  Operand y;
};

struct MixedSumBackward {
  DType dtype;
  IterationSpace space;
  int inputs;
  const Operand* x;
  const void* weights;
  Operand grad;
  const Operand* grad_x;  // data is null where it is not wanted
  double* partials;       // [mixed_sum_tasks(space), inputs]; null where grad_weights is not wanted
  void* grad_weights;     // [inputs], in the accumulation type
};

// The rows of MixedSumBackward::partials depend on the shape alone, so that sums depend on nothing
// else.
namespace cuda {
int64_t mixed_sum_tasks(const IterationSpace& space);
}

ASOSE_KERNEL(mixed_sum_forward, MixedSumForward);
ASOSE_KERNEL(mixed_sum_backward, MixedSumBackward);

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// The CPU's work is cut into tasks by the shape alone, never by the thread count, so that sums do
// not depend on it.
constexpr int64_t kTaskElements = 4096;

struct TaskGrid {
  int64_t rows;        // all dimensions but the last
  int64_t row_length;  // the last dimension
  int64_t rows_per_task;
  int64_t tasks_per_row;  // 1 unless a row is longer than a task

  explicit TaskGrid(const IterationSpace& space)
      : rows(1), row_length(space.dims ? space.sizes[space.dims - 1] : 1) {
    for (int d = 0; d + 1 < space.dims; ++d) rows *= space.sizes[d];
    const bool long_row = row_length > kTaskElements;
    tasks_per_row = long_row ? (row_length + kTaskElements - 1) / kTaskElements : 1;
    rows_per_task = long_row || row_length == 0 ? 1 : kTaskElements / row_length;
  }

  int64_t elements() const { return rows * row_length; }

  int64_t tasks() const { return (rows + rows_per_task - 1) / rows_per_task * tasks_per_row; }
};

}  // namespace

namespace cpu {
namespace {

inline int64_t mixed_sum_tasks(const IterationSpace& space) { return TaskGrid(space).tasks(); }

}  // namespace
}  // namespace cpu

}  // namespace asose
