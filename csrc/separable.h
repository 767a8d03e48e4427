// Depthwise-separable convolutions of a mixed layer: affine map and ReLU on load, depthwise and
// pointwise convolution, without the depthwise outputs ever reaching memory. Backward takes the
// gradients of the outputs as they are before a batch norm's backward, which it applies on load.
#pragma once

#include <algorithm>
#include <cstdint>

#include "multi_depthwise.h"

namespace asose {

struct Separable {
  MultiDepthwise depthwise;  // its scratch: [threads, SeparableTiling::scratch_bytes]
  const void* pointwise;     // [branches, channels, channels]: output channel, input channel
  // Workspace, [branches, padded_channels / kPad, channels, kPad] in the terms of SeparableTiling:
  // forward, what an input channel gives to kPad output channels; backward, what an output channel
  // takes from kPad input channels.
  void* blocked;
};

struct SeparableForward {
  Separable op;
  void* const* z;    // [branches]
  double* partials;  // [slices, branches, 2, channels]; null where no statistics are wanted
  double* mean;      // [branches, channels]
  double* var;       // [branches, channels], biased
};

// Branch b has dL/dz = scale * grad + slope * (z - center) + shift, the last two terms only where z
// is there.
struct SeparableBackward {
  Separable op;
  const void* const* grad;  // [branches]; null: 0
  const void* const* z;     // [branches]
  const void*
      tables;  // [branches, 4, channels] in the accumulation type: scale, center, slope, shift
  void* const* grad_x;  // [inputs]; null where it is not wanted
  bool need_depthwise, need_pointwise, need_affine;
  void* partials;            // [slices, rows, channels]; rows as in MultiDepthwise
  void* partials_pointwise;  // [slices, branches, channels, padded_channels]
  void* grad_params;         // [rows, channels]; rows that are not wanted become 0
  void* grad_pointwise;      // [branches, channels, padded_channels]; output channel, input channel
};

ASOSE_KERNEL(separable_forward, SeparableForward);
ASOSE_KERNEL(separable_backward, SeparableBackward);

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// The tiles of the depthwise convolutions; slices and scratch are its own.
struct SeparableTiling : DepthwiseTiling {
  static constexpr int64_t kStripPixels = 128;  // vectors of a strip of rows in the L1 cache
  static constexpr int64_t kLeastPixels = 32;   // for which weights are worth reading
  static constexpr int64_t kPad = 16;
  static constexpr int64_t kPartialBytes = 2 << 20;

  int64_t padded_channels;
  int64_t blocks;          // of 64 bytes, that hold all channels of a pixel
  int64_t strip_rows;      // rows that pass from depthwise to pointwise at once
  int64_t margin_across;   // of the outputs' gradients
  int64_t gradient_plane;  // in vectors: a tile of such a gradient with its margins

  explicit SeparableTiling(const Separable& op)
      : DepthwiseTiling(op.depthwise, op.depthwise.channels > 64 ? kEdge / 2 : kEdge) {
    const MultiDepthwise& dw = op.depthwise;
    const int64_t bytes = accumulation_bytes(dw.dtype);
    padded_channels = ceil_div(dw.channels, kPad) * kPad;
    blocks = ceil_div(dw.channels * bytes, kVectorBytes);
    margin_across = ceil_div(dw.halo_across(), dw.stride);
    strip_rows = std::clamp<int64_t>(std::max(kStripPixels / blocks, kLeastPixels) / tile_width, 1,
                                     tile_height);
    const int64_t pointwise = dw.branches * dw.channels * padded_channels * bytes;
    slices = std::min(slices, std::max<int64_t>(kPartialBytes / pointwise, 16));
    gradient_plane = (tile_height + 2 * ceil_div(dw.halo_down(), dw.stride)) * strip_pitch();
    const int64_t planes = input_plane(dw) + gradient_plane + grad_plane(dw);
    scratch_bytes = kVectorBytes * blocks * (planes + dw.taps() + dw.rows() + 2 * strip_plane());
  }

  // Strips of a depthwise output, and of a gradient with its margins, have so many vectors. Their
  // rows may be written up to a multiple of kStep.
  int64_t strip_pitch() const { return tile_width + 2 * margin_across + kStep; }
  int64_t strip_plane() const { return strip_rows * strip_pitch(); }
};

}  // namespace

}  // namespace asose
