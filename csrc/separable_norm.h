// A chain of separable convolutions, each with the ReLU before it and its batch norm, and the blend
// of the last norm with a shortcut: a lone separable candidate. Neither depthwise outputs nor what
// norms between two stages give reach memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"
#include "lane_grid.h"
#include "norm_tables.h"
#include "separable.h"
#include "stage_weights.h"
#include "stretch.h"

namespace asose {

struct SeparableNorm {
  DType dtype;
  int64_t images, channels, height, width;  // of x; all tensors are dense channels_last
  int stride;                               // of the first stage, 1 or 2; others have 1
  int stages;
  const int64_t* kernels;  // [stages], odd
  const int64_t* dilations;

  // Stage s as a depthwise operator, without its tensors.
  ASOSE_INLINE MultiDepthwise depthwise(int s) const {
    MultiDepthwise op{};
    op.dtype = dtype, op.images = images, op.channels = channels;
    op.height = s ? (height - 1) / stride + 1 : height;
    op.width = s ? (width - 1) / stride + 1 : width;
    op.stride = s ? 1 : stride, op.relu = true, op.affine = s > 0;
    op.inputs = op.branches = 1, op.kernels = kernels + s, op.dilations = dilations + s;
    return op;
  }
  // The outputs of all stages.
  ASOSE_INLINE ChannelSpace space() const {
    return {images * ((height - 1) / stride + 1) * ((width - 1) / stride + 1), channels, 1};
  }
};

struct SeparableNormForward {
  SeparableNorm op;
  const void* x;
  const void *shortcut, *gain;                 // as in NormLerpForward; null: no blend
  const StridedWeight *depthwise, *pointwise;  // [stages]
  const RunningNorm* norms;                    // [stages], but for the statistics of the batch
  const double *const *gamma, *const *beta;    // [stages][channels]; null: 1 and 0
  void* workspace;                             // of SeparableNormForwardRoom, 64-byte aligned
  void* const* z;                              // [stages]
  double* tables;                              // [stages, 2, channels]: mean and rstd
  void* y;
};

// Gradients may be null, and the data of weights'. Where the gain is 0, those of the stages are 0
// and must be so before: the stages are not read, whatever they hold.
struct SeparableNormBackward {
  SeparableNorm op;
  const void *grad, *x, *shortcut, *gain;
  const StridedWeight *depthwise, *pointwise;
  const double *const *gamma, *const *beta;
  const bool* of_batch;  // [stages]
  const void* const* z;
  const double* tables;
  void* workspace;  // of SeparableNormBackwardRoom, 64-byte aligned
  void* grad_x;
  bool shortcut_is_x;  // then grad_x is that of both
  const StridedWeight *grad_depthwise, *grad_pointwise;
  void *grad_shortcut, *grad_gain;
  double *const *grad_gamma, *const *grad_beta;  // [stages][channels]
};

ASOSE_KERNEL(separable_norm_forward, SeparableNormForward);
ASOSE_KERNEL(separable_norm_backward, SeparableNormBackward);

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// The most that any stage takes, in values but for the bytes of scratch.
struct StageRoom {
  int64_t params = 0, matrix = 0, slices = 0, scratch = 0;

  explicit StageRoom(const SeparableNorm& op) {
    for (int s = 0; s < op.stages; ++s) {
      const MultiDepthwise depthwise = op.depthwise(s);
      const SeparableTiling tiling({depthwise, nullptr, nullptr});
      params = std::max(params, depthwise.rows() * op.channels);
      matrix = std::max(matrix, op.channels * tiling.padded_channels);
      slices = std::max(slices, tiling.slices);
      scratch = std::max(scratch, tiling.scratch_bytes);
    }
  }
};

struct SeparableNormForwardRoom {
  void *params, *matrices, *blocked, *scratch;
  double *partials, *statistics;
  void* tables;
  int64_t bytes;

  SeparableNormForwardRoom(const SeparableNorm& op, int threads, void* workspace) {
    const StageRoom stage(op);
    const int64_t value = accumulation_bytes(op.dtype), row = op.channels * sizeof(double);
    Stretch stretch(workspace);
    params = stretch.take(stage.params * value);
    matrices = stretch.take(stage.matrix * value);
    blocked = stretch.take(stage.matrix * value);
    scratch = stretch.take(stage.scratch * threads);
    partials = stretch.take<double>(stage.slices * 2 * row);
    statistics = stretch.take<double>(2 * row);
    tables = stretch.take(5 * row);
    bytes = stretch.bytes();
  }
};

struct SeparableNormBackwardRoom {
  void *params, *matrices, *blocked, *scratch;
  void *partials, *partials_pointwise, *grad_params, *grad_matrices;
  double *sum_partials, *sums, *s0, *s1;
  void* tables;
  void* grads[2];  // of what two stages hand on in turn
  int64_t bytes;

  SeparableNormBackwardRoom(const SeparableNorm& op, int threads, void* workspace) {
    const StageRoom stage(op);
    const ChannelSpace space = op.space();
    const int64_t value = accumulation_bytes(op.dtype), row = op.channels * sizeof(double);
    const int64_t output = space.outer * op.channels * element_bytes(op.dtype);
    Stretch stretch(workspace);
    params = stretch.take(stage.params * value);
    matrices = stretch.take(stage.matrix * value);
    blocked = stretch.take(stage.matrix * value);
    scratch = stretch.take(stage.scratch * threads);
    partials = stretch.take(stage.slices * stage.params * value);
    partials_pointwise = stretch.take(stage.slices * stage.matrix * value);
    grad_params = stretch.take(stage.params * value);
    grad_matrices = stretch.take(stage.matrix * value);
    sum_partials = stretch.take<double>(3 * row * LaneGrid(space, kSumRows).groups());
    sums = stretch.take<double>(3 * row);
    s0 = stretch.take<double>(row);
    s1 = stretch.take<double>(row);
    tables = stretch.take(8 * row);
    grads[0] = stretch.take(op.stages > 1 ? output : 0);
    grads[1] = stretch.take(op.stages > 2 ? output : 0);
    bytes = stretch.bytes();
  }
};

}  // namespace

}  // namespace asose
