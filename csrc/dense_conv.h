// Dense convolutions of `same` padding and odd kernels, with a ReLU before.
#pragma once

#include <algorithm>
#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"

namespace asose {

struct DenseConv {
  DType dtype;
  int64_t images, in_channels, height, width;  // of x; all tensors are dense channels_last
  int64_t out_channels;
  int64_t down, across;  // taps
  int64_t stride_down, stride_across;
  bool relu;

  ASOSE_INLINE int64_t taps() const { return down * across; }
  ASOSE_INLINE int64_t out_height() const { return (height - 1) / stride_down + 1; }
  ASOSE_INLINE int64_t out_width() const { return (width - 1) / stride_across + 1; }
  // Rows of the input that rows of the output meet, and the columns that all meet.
  ASOSE_INLINE int64_t rows_for(int64_t rows) const { return (rows - 1) * stride_down + down; }
  ASOSE_INLINE int64_t columns() const { return (out_width() - 1) * stride_across + across; }
};

// Weights of the accumulation type, and where those of an output and an input channel, a row and a
// column lie.
struct DenseWeights {
  void* data;
  int64_t over, across, down, along;
};

// y = conv(relu(x), weights)
struct DenseConvForward {
  DenseConv op;
  const void* x;
  DenseWeights weights;
  void* packed;  // DenseRoom::packed_values, of the accumulation type, 64-byte aligned
  void* y;
  void* scratch;  // [threads, DenseRoom::scratch_bytes], 64-byte aligned
};

// Either gradient may be null; that of x is for stride 1 alone.
struct DenseConvBackward {
  DenseConv op;
  const void* grad;
  const void* x;
  DenseWeights weights;
  void* packed;
  void* grad_x;
  void* partials;  // [slices, partial_values], of the accumulation type, 64-byte aligned
  DenseWeights grad_weights;
  void* scratch;
};

ASOSE_KERNEL(dense_conv_forward, DenseConvForward);
ASOSE_KERNEL(dense_conv_backward, DenseConvBackward);

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// What the kernels need room for.
struct DenseRoom {
  int64_t packed_values;   // of the accumulation type, and so are those of a slice
  int64_t slices;          // of tiles, whose weight gradients are summed up by themselves
  int64_t partial_values;  // of a slice
  int64_t scratch_bytes;   // a thread

  static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
};

// A strip is some rows of an image's output; the rows of the input that it reads lie in the scratch
// with their margin, activated. Channels of outputs are padded to whole vectors, of 64 bytes at
// most.
struct DenseTiling : DenseRoom {
  static constexpr int64_t kVectorBytes = 64;
  static constexpr int64_t kStripRows = 8, kTilePixels = 64;
  static constexpr int64_t kStripBytes = 256 << 10;  // of scratch, if rows are not longer
  static constexpr int64_t kPartialBytes = 4 << 20;  // of all slices, if weights are not larger
  static constexpr int64_t kMinSlices = 2, kMaxSlices = 32;

  int64_t in_padded, out_padded;  // channels
  int64_t rows, strips, units;    // rows of a strip, strips of an image and of all images
  int64_t together, tiles;        // strips of so many images are a tile of the weight gradient
  int64_t source_values, gradient_values;  // of a strip

  explicit DenseTiling(const DenseConv& op) {
    const int64_t size = accumulation_bytes(op.dtype);
    const int64_t lanes = kVectorBytes / size;
    in_padded = ceil_div(op.in_channels, lanes) * lanes;
    out_padded = ceil_div(op.out_channels, lanes) * lanes;
    const int64_t taps = op.taps(), height = op.out_height();
    const int64_t row = op.columns() * std::max(op.in_channels, op.out_channels);
    const auto source = [&](int64_t strip) { return op.rows_for(strip) * row; };
    const auto gradient = [&](int64_t strip) { return strip * op.out_width() * out_padded; };
    const auto bytes = [&](int64_t strip) {
      // A vector may be read from a strip's last value on.
      return ceil_div((source(strip) + lanes) * size, kVectorBytes) * kVectorBytes +
             gradient(strip) * size;
    };
    rows = std::min(kStripRows, height);
    while (rows > 1 && bytes(rows) > kStripBytes) --rows;
    strips = ceil_div(height, rows), units = op.images * strips;
    const int64_t most = std::min(kTilePixels / (rows * op.out_width()), kStripBytes / bytes(rows));
    together = strips > 1 ? 1 : std::clamp<int64_t>(most, 1, op.images);
    tiles = ceil_div(op.images, together) * strips;
    packed_values = taps * std::max(in_padded * op.out_channels, out_padded * op.in_channels);
    partial_values = taps * op.in_channels * out_padded;
    slices = std::clamp(kPartialBytes / (partial_values * size), kMinSlices, kMaxSlices);
    slices = std::clamp<int64_t>(slices, 1, tiles);
    source_values = ceil_div((source(rows) + lanes) * size, kVectorBytes) * kVectorBytes / size;
    gradient_values = gradient(rows);
    scratch_bytes = together * bytes(rows);
  }
};

// 3x3 convolutions of stride 1 by the minimal filtering F(2x2, 3x3) of Winograd (Lavin and Gray,
// CVPR 2016): 16 products instead of 36 for 2x2 outputs. A tile is 2x2 outputs, a strip the tiles
// of some rows, and a block the strips of some images, whose tiles are worked on so many at once.
struct WinogradTiling : DenseRoom {
  static constexpr int64_t kPoints = 16, kLanes = 16;  // at most so many lanes
  static constexpr int64_t kMostTiles = 64, kLeastTiles = 8;
  static constexpr int64_t kTileBytes = 256 << 10, kStripBytes = 256 << 10;
  static constexpr int64_t kPartialBytes = 4 << 20;             // as in DenseTiling
  static constexpr int64_t kMaxSlices = 32, kSliceTiles = 128;  // at least so many a slice

  static bool fits(const DenseConv& op) {
    return op.down == 3 && op.across == 3 && op.stride_down == 1 && op.stride_across == 1 &&
           op.dtype != DType::f64 && std::min(op.in_channels, op.out_channels) >= kLanes &&
           std::min(op.height, op.width) >= 2;
  }

  int64_t across;            // tiles of a row
  int64_t rows, strips;      // rows of tiles of a strip, strips of an image
  int64_t together, blocks;  // images of a block
  int64_t tiles;             // at once
  int64_t source_values;     // of a strip's input or gradient with its margin
  int64_t point_values;      // of the tiles at one of the points

  explicit WinogradTiling(const DenseConv& op) {
    const int64_t size = sizeof(float), most = std::max(op.in_channels, op.out_channels);
    const int64_t padded = ceil_div(most, kLanes) * kLanes;
    const int64_t down = ceil_div(op.height, 2);
    across = ceil_div(op.width, 2);
    // Weights that no cache holds are read once a round of tiles, which then are many.
    const int64_t weights = kPoints * op.in_channels * op.out_channels * size;
    const int64_t bytes = std::max(kTileBytes, weights / 4);
    tiles = std::clamp(bytes / (kPoints * 2 * padded * size) / 8 * 8, kLeastTiles, kMostTiles);
    const auto source = [&](int64_t strip) { return (2 * strip + 2) * (2 * across + 2) * most; };
    rows = std::min(ceil_div(tiles, across), down);
    while (rows > 1 && source(rows) * size > kStripBytes) --rows;
    strips = ceil_div(down, rows);
    source_values = ceil_div(source(rows) + kLanes, kLanes) * kLanes;
    const int64_t images = std::min(tiles / (rows * across), kStripBytes / (source_values * size));
    together = strips > 1 ? 1 : std::clamp<int64_t>(images, 1, op.images);
    blocks = ceil_div(op.images, together) * strips;
    packed_values = kPoints * padded * most;
    partial_values = kPoints * op.in_channels * ceil_div(op.out_channels, kLanes) * kLanes;
    const int64_t enough = blocks * together * rows * across / kSliceTiles;
    slices = std::min({kPartialBytes / (partial_values * size), kMaxSlices, enough, blocks});
    slices = std::max<int64_t>(slices, 1);
    // Not a multiple of a page, so that points do not compete for the same lines of the cache.
    point_values = tiles * padded + kLanes;
    scratch_bytes = (together * source_values + 2 * kPoints * point_values) * size;
  }
};

inline DenseRoom dense_room(const DenseConv& op) {
  if (WinogradTiling::fits(op)) return WinogradTiling(op);
  return DenseTiling(op);
}

}  // namespace

}  // namespace asose
