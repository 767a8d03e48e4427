// Dense convolutions along one axis of an image, 1 x k or k x 1, of `same` padding, with a ReLU
// before.
#pragma once

#include <algorithm>
#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"

namespace asose {

// A tensor consists of lines along the axis of the convolution: a lane is one line, a position one
// pixel of it. In channels_last memory, lane j begins at j / group * group_pitch + j % group *
// pitch.
struct Lines {
  int64_t lanes, length, channels;
  int64_t group, group_pitch, pitch, step;

  ASOSE_INLINE static Lines of(int64_t images, int64_t channels, int64_t height, int64_t width,
                               bool vertical) {
    const int64_t row = width * channels;
    if (vertical) return {images * width, height, channels, width, height * row, channels, row};
    return {images * height, width, channels, images * height, 0, row, channels};
  }
  ASOSE_INLINE int64_t begin(int64_t lane) const {
    return lane / group * group_pitch + lane % group * pitch;
  }
};

struct LineConv {
  DType dtype;
  int64_t images, height, width;  // of x; all tensors are dense channels_last
  int64_t in_channels, out_channels;
  int64_t kernel, stride;  // along the axis; kernel is odd
  bool vertical;           // k x 1
  bool relu;

  ASOSE_INLINE int64_t pad() const { return kernel / 2; }
  ASOSE_INLINE int64_t strided(int64_t size) const { return (size - 1) / stride + 1; }
  ASOSE_INLINE Lines in() const { return Lines::of(images, in_channels, height, width, vertical); }
  ASOSE_INLINE Lines out() const {
    return Lines::of(images, out_channels, vertical ? strided(height) : height,
                     vertical ? width : strided(width), vertical);
  }
};

// y = conv(relu(x), weight)
struct LineConvForward {
  LineConv op;
  const void* x;
  const void* weight;  // [out_channels, in_channels, kernel] in the accumulation type
  void* packed;        // LineTiling::packed_values, likewise, 64-byte aligned
  void* y;
  void* scratch;  // [threads, LineTiling::scratch_bytes], 64-byte aligned
};

// Either gradient may be null.
struct LineConvBackward {
  LineConv op;
  const void* grad;
  const void* x;
  const void* weight;
  void* packed;
  void* grad_x;
  void* partials;     // [slices, partial_values], in the accumulation type, 64-byte aligned
  void* grad_weight;  // like weight
  void* scratch;
};

ASOSE_KERNEL(line_conv_forward, LineConvForward);
ASOSE_KERNEL(line_conv_backward, LineConvBackward);

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// Channels lie in planes of 64 bytes a pixel, [plane][position][lane], and a tile is some lanes of
// all positions: of the input with its activation, of the outputs' gradient, of sums.
struct LineTiling {
  static constexpr int64_t kPixelBytes = 64;
  static constexpr int64_t kLaneStep = 6;
  static constexpr int64_t kTilePixels = 384;       // of one plane, in the first-level cache
  static constexpr int64_t kTileBytes = 192 << 10;  // of all planes of x
  static constexpr int64_t kOutPlanes = 2;          // whose weight gradients are summed at once
  static constexpr int64_t kWeightTasks = 32;

  int64_t width;  // channels of a plane
  int64_t in_planes, out_planes;
  int64_t lanes, tiles;
  int64_t out_groups, slices;  // tasks of the weight gradient
  int64_t packed_values, partial_values, scratch_bytes;

  explicit LineTiling(const LineConv& op) {
    const Lines in = op.in(), out = op.out();
    width = kPixelBytes / accumulation_bytes(op.dtype);
    in_planes = ceil_div(op.in_channels, width);
    out_planes = ceil_div(op.out_channels, width);
    const int64_t planes = std::max(in_planes, out_planes);
    const int64_t pixels = std::min(kTilePixels, kTileBytes / kPixelBytes / planes);
    lanes = std::max<int64_t>(pixels / in.length / kLaneStep, 1) * kLaneStep;
    tiles = ceil_div(in.lanes, lanes);
    out_groups = ceil_div(out_planes, kOutPlanes);
    slices = std::clamp<int64_t>(kWeightTasks / out_groups, 1, tiles);
    packed_values =
        op.kernel * width * std::max(out_planes * op.in_channels, in_planes * op.out_channels);
    partial_values = op.kernel * width * out_planes * op.in_channels;
    scratch_bytes = kPixelBytes * lanes * (planes + kOutPlanes) * std::max(in.length, out.length);
  }
  static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
};

}  // namespace

}  // namespace asose
