// A dense convolution and its batch norm, then 2x2 max pooling, the blend with a shortcut, or
// neither: what dense_conv and norm_pool or norm_lerp compute one after the other.
#pragma once

#include <cstdint>

#include "always_inline.h"
#include "dense_conv.h"
#include "dtype.h"
#include "kernel.h"
#include "lane_grid.h"
#include "norm_pool.h"
#include "norm_tables.h"
#include "stretch.h"

namespace asose {

struct ConvNorm {
  DenseConv conv;
  bool pool, blend;  // not both

  // z is the output of the convolution.
  ASOSE_INLINE ChannelSpace space() const {
    return {conv.images * conv.out_height() * conv.out_width(), conv.out_channels, 1};
  }
  ASOSE_INLINE Pooling pooling() const {
    return pool ? Pooling{conv.out_height(), conv.out_width()} : Pooling{0, 0};
  }
};

struct ConvNormForward {
  ConvNorm op;
  const void* x;
  DenseWeights weights;
  const void *shortcut, *gain;  // read where they are blended; as in NormLerpForward
  RunningNorm norm;             // but for the statistics of the batch, which are computed
  const double *gamma, *beta;   // [channels]; null: 1 and 0
  void* workspace;              // of ConvNormForwardRoom, 64-byte aligned
  void* z;
  double *mean, *rstd;  // [channels]: what the norm normalises by
  void* y;
};

// Gradients may be null.
struct ConvNormBackward {
  ConvNorm op;
  const void *grad, *x;
  DenseWeights weights;
  const void *z, *shortcut, *gain;
  const double *gamma, *beta, *mean, *rstd;
  bool of_batch;
  void* workspace;  // of ConvNormBackwardRoom, 64-byte aligned
  void* grad_x;
  DenseWeights grad_weights;
  void *grad_shortcut, *grad_gain;  // where they are blended
  double *grad_gamma, *grad_beta;   // [channels]
};

ASOSE_KERNEL(conv_norm_forward, ConvNormForward);
ASOSE_KERNEL(conv_norm_backward, ConvNormBackward);

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// What the kernels of the convolution and the norm work in.
struct ConvNormForwardRoom {
  void *packed, *scratch;
  double *partials, *statistics;
  void* tables;
  int64_t bytes;

  ConvNormForwardRoom(const ConvNorm& op, int threads, void* workspace) {
    const DenseRoom conv = dense_room(op.conv);
    const int64_t row = op.conv.out_channels * sizeof(double);
    Stretch stretch(workspace);
    packed = stretch.take(conv.packed_values * accumulation_bytes(op.conv.dtype));
    scratch = stretch.take(conv.scratch_bytes * threads);
    partials = stretch.take<double>(2 * row * LaneGrid(op.space(), kSumRows).groups());
    statistics = stretch.take<double>(2 * row);
    tables = stretch.take(5 * row);
    bytes = stretch.bytes();
  }
};

struct ConvNormBackwardRoom {
  void *packed, *conv_partials, *scratch;
  double *partials, *sums;
  void* tables;
  int64_t bytes;

  ConvNormBackwardRoom(const ConvNorm& op, int threads, void* workspace) {
    const DenseRoom conv = dense_room(op.conv);
    const ChannelSpace space = op.space();
    const int64_t value = accumulation_bytes(op.conv.dtype), row = space.channels * sizeof(double);
    Stretch stretch(workspace);
    packed = stretch.take(conv.packed_values * value);
    conv_partials = stretch.take(conv.slices * conv.partial_values * value);
    scratch = stretch.take(conv.scratch_bytes * threads);
    partials = stretch.take<double>(3 * row * norm_pool_groups(space, op.pooling()));
    sums = stretch.take<double>(3 * row);
    tables = stretch.take(8 * row);
    bytes = stretch.bytes();
  }
};

}  // namespace

}  // namespace asose
