// Dense convolutions of `same` padding and odd kernels, with a ReLU before.
#pragma once

#include <algorithm>
#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"
#include "norm_pool.h"

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

// A batch norm of y, pooled or not. Where it is `dead`, its gradient counts for nothing.
struct OutputNorm {
  const void* z;       // y as an element holds it
  const void* tables;  // of mixed_norm_sum's backward pass, or norm_pool's with the pooling
  Pooling pooling;
  bool of_batch, dead;
};

// Either gradient may be null. `grad` is that of y or, where the norm is not null, that of its
// output.
struct DenseConvBackward {
  DenseConv op;
  const void* grad;
  const OutputNorm* norm;
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
// with their margin, activated. There is room, too, for the rows of the output's gradient that as
// many of the strided inputs meet, which are no more. Channels of outputs are padded to whole
// vectors, of 64 bytes at most.
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

// An axis of the tiles of a minimal filtering: F(outputs, taps).
struct WinogradAxis {
  int64_t taps, outputs, tiles;

  ASOSE_INLINE int64_t pad() const { return taps / 2; }
  ASOSE_INLINE int64_t points() const { return outputs + taps - 1; }
  // Inputs that so many tiles meet.
  ASOSE_INLINE int64_t inputs(int64_t count) const { return outputs * count + taps - 1; }
};

// Convolutions of stride 1 by the minimal filtering of Winograd (Lavin and Gray, CVPR 2016): for
// 3x3 F(2x2, 3x3) or F(4x4, 3x3), which take 16 products instead of 36 for 2x2 outputs, or 36
// instead of 144 for 4x4, and for 1x7 and 7x1 F(4, 7), which takes 10 instead of 28 for four. A
// tile is so many outputs, a strip the tiles of some rows, and a block the strips of some images,
// whose tiles are worked on so many at once.
struct WinogradTiling : DenseRoom {
  static constexpr int64_t kLanes = 16;  // at most
  static constexpr int64_t kMostTiles = 64, kLeastTiles = 8;
  static constexpr int64_t kTileBytes = 384 << 10, kManyTileBytes = 5 << 19;
  static constexpr int64_t kStripBytes = 256 << 10;
  static constexpr int64_t kPartialBytes = 8 << 20;  // of all slices, if weights are not larger
  static constexpr int64_t kMinSlices = 2, kMaxSlices = 32, kSliceTiles = 256;
  // Of an input and an output channel, whose weights are transformed, in all and for a tile.
  static constexpr int64_t kMostPairs = 1 << 16, kPairsATile = 1 << 8;
  static constexpr int64_t kMostLinePairs = 1 << 18, kLinePairsATile = 1 << 9;
  static constexpr int64_t kLightBytes = 512 << 10;

  static bool fits(const DenseConv& op) {
    if (op.stride_down > 1 || op.stride_across > 1 || op.dtype == DType::f64) return false;
    if (std::min(op.in_channels, op.out_channels) < kLanes) return false;
    if (op.down == 3 && op.across == 3) return std::min(op.height, op.width) >= 2;
    return is_line(op) && fewer_products(op) &&
           pairs_of(op) <= std::min(kMostLinePairs, kLinePairsATile * tiles_of(op, 4));
  }

  WinogradAxis down, across;
  int64_t rows, strips;      // rows of tiles of a strip, strips of an image
  int64_t together, blocks;  // images of a block
  int64_t tiles;             // at once
  int64_t source_values;     // of a strip's input or gradient with its margin
  int64_t point_values;      // of the tiles at one of the points
  bool light;                // whether the cache holds weights and their gradients beside the tiles

  ASOSE_INLINE int64_t points() const { return down.points() * across.points(); }
  ASOSE_INLINE int64_t columns() const { return across.inputs(across.tiles); }  // of a strip

  explicit WinogradTiling(const DenseConv& op)
      : down(axis(op.height, op.down, outputs_of(op))),
        across(axis(op.width, op.across, outputs_of(op))) {
    const int64_t size = sizeof(float), most = std::max(op.in_channels, op.out_channels);
    const int64_t padded = ceil_div(most, kLanes) * kLanes;
    // Weights are read once a round of tiles: the larger they are, the more tiles, in the cache.
    const int64_t weights = points() * op.in_channels * op.out_channels * size;
    const int64_t tile_bytes =
        std::max({kTileBytes, std::min(weights / 2, kManyTileBytes), weights / 4});
    const int64_t strip_bytes = std::max(kStripBytes, weights / 4);
    tiles = tile_bytes / (points() * 2 * padded * size) / 8 * 8;
    tiles = std::clamp(tiles, kLeastTiles, kMostTiles);
    const auto source = [&](int64_t strip) { return down.inputs(strip) * columns() * most; };
    rows = std::min(ceil_div(tiles, across.tiles), down.tiles);
    while (rows > 1 && source(rows) * size > strip_bytes) --rows;
    strips = ceil_div(down.tiles, rows), rows = ceil_div(down.tiles, strips);
    source_values = ceil_div(source(rows) + kLanes, kLanes) * kLanes;
    const int64_t images =
        std::min(tiles / (rows * across.tiles), strip_bytes / (source_values * size));
    together = strips > 1 ? 1 : std::clamp<int64_t>(images, 1, op.images);
    // Two threads are to share out few blocks, if those are no smaller than a round of tiles.
    const int64_t shared = ceil_div(op.images, ceil_div(ceil_div(op.images, together), 2) * 2);
    if (shared * rows * across.tiles >= kLeastTiles) together = shared;
    blocks = ceil_div(op.images, together) * strips;
    // So that no round has few of a block's tiles.
    const int64_t of_block = together * rows * across.tiles;
    tiles = ceil_div(of_block, std::max<int64_t>(of_block / tiles, 1));
    packed_values = points() * padded * most;
    partial_values = points() * op.in_channels * ceil_div(op.out_channels, kLanes) * kLanes;
    light = std::max(packed_values, partial_values) * size <= kLightBytes;
    // An even number, for two threads to share out.
    const int64_t enough =
        std::max(op.images * down.tiles * across.tiles / kSliceTiles / 2 * 2, kMinSlices);
    slices = std::min(kPartialBytes / (partial_values * size), enough);
    slices = std::clamp<int64_t>(slices, 1, std::min(kMaxSlices, blocks));
    // An odd number of lines, so that points do not compete for the same sets of the cache.
    point_values = (tiles * padded / kLanes | 1) * kLanes;
    scratch_bytes = 2 * (together * source_values + points() * point_values) * size;
  }

 private:
  static bool is_line(const DenseConv& op) {
    return std::min(op.down, op.across) == 1 && std::max(op.down, op.across) == 7;
  }

  ASOSE_INLINE static WinogradAxis axis(int64_t size, int64_t taps, int64_t outputs) {
    if (taps == 1) outputs = 1;
    return {taps, outputs, ceil_div(size, outputs)};
  }

  static int64_t tiles_of(const DenseConv& op, int64_t outputs) {
    return op.images * axis(op.height, op.down, outputs).tiles *
           axis(op.width, op.across, outputs).tiles;
  }

  // Of a line, beside 7 an output.
  static bool fewer_products(const DenseConv& op) {
    return 8 * 10 * tiles_of(op, 4) <= 7 * 7 * op.images * op.height * op.width;
  }

  static int64_t pairs_of(const DenseConv& op) { return op.in_channels * op.out_channels; }

  // Of a tile, along an axis of several taps. Of 3x3, tiles of 4x4 are for fewer products.
  static int64_t outputs_of(const DenseConv& op) {
    const bool fewer = 8 * 36 * tiles_of(op, 4) <= 7 * 16 * tiles_of(op, 2);
    const bool few = pairs_of(op) <= std::min(kMostPairs, kPairsATile * tiles_of(op, 4));
    return is_line(op) || (fewer && few) ? 4 : 2;
  }
};

inline DenseRoom dense_room(const DenseConv& op) {
  if (WinogradTiling::fits(op)) return WinogradTiling(op);
  return DenseTiling(op);
}

}  // namespace

}  // namespace asose
