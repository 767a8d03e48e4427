// All depthwise convolutions of a mixed layer in one pass, with the affine map and the ReLU before
// them applied on load.
#pragma once

#include <algorithm>
#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"

namespace asose {

constexpr int kMaxBranches = 32;
constexpr int64_t kNear = 4;  // pixels that the taps of unrolled kernels reach at most

struct MultiDepthwise {
  DType dtype;
  int64_t images, channels, height, width;  // of the inputs; all tensors are dense channels_last
  int stride;                               // 1 or 2
  bool relu, affine;
  int inputs;  // 1, shared by all branches, or one a branch
  int branches;
  const int64_t* kernels;  // [branches], odd
  const int64_t* dilations;
  const void* const* x;  // [inputs]
  // [rows, channels] in the accumulation type: the taps of every branch in turn, then,
  // where affine, the scale of every input and the shift of every input.
  const void* params;
  void* scratch;  // [threads, DepthwiseTiling::scratch_bytes], 64-byte aligned

  // So many taps of a branch to either side of the middle one are computed with along an axis with
  // `size` pixels. Taps that are farther away than the image is long meet no pixel of it.
  ASOSE_INLINE int64_t reach(int b, int64_t size) const {
    return std::min((kernels[b] - 1) / 2, std::max(size - 1, kNear) / dilations[b]);
  }
  // They are at most so many pixels away.
  ASOSE_INLINE int64_t halo(int64_t size) const {
    int64_t result = 0;
    for (int b = 0; b < branches; ++b) result = std::max(result, reach(b, size) * dilations[b]);
    return result;
  }
  ASOSE_INLINE int64_t halo_down() const { return halo(height); }
  ASOSE_INLINE int64_t halo_across() const { return halo(width); }
  ASOSE_INLINE int64_t taps() const {
    int64_t result = 0;
    for (int b = 0; b < branches; ++b) result += kernels[b] * kernels[b];
    return result;
  }
  ASOSE_INLINE int64_t rows() const { return taps() + (affine ? 2 * inputs : 0); }
  // An input has the branches [first_branch(input), last_branch(input)).
  ASOSE_INLINE int first_branch(int input) const { return inputs == 1 ? 0 : input; }
  ASOSE_INLINE int last_branch(int input) const { return inputs == 1 ? branches : input + 1; }
};

struct MultiDepthwiseForward {
  MultiDepthwise op;
  void* const* y;  // [branches]
};

struct MultiDepthwiseBackward {
  MultiDepthwise op;
  const void* const* grad;  // [branches]; null where a branch got none
  void* const* grad_x;      // [inputs]; null where it is not wanted
  bool need_weights, need_affine;
  void* partials;  // [slices, rows, channels]; unused where neither is wanted
  // It is like params; rows that are not wanted become 0. On CUDA it may be null: the partials are
  // then left to be added up.
  void* grad_params;
};

// A call needs this besides its tensors. It follows from the shape alone, so that sums depend on
// nothing else.
struct DepthwiseWorkspace {
  int64_t slices;         // of MultiDepthwiseBackward::partials
  int64_t scratch_bytes;  // of each thread of a CPU; CUDA needs none
};
namespace cuda {
DepthwiseWorkspace multi_depthwise_workspace(const MultiDepthwise& op);
}

ASOSE_KERNEL(multi_depthwise_forward, MultiDepthwiseForward);
ASOSE_KERNEL(multi_depthwise_backward, MultiDepthwiseBackward);

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// The work is cut by the shape alone, so that sums do not depend on the thread count: into tiles of
// the output, small enough for the second-level cache, and for the sums over pixels into slices,
// which are runs of tiles.
struct DepthwiseTiling {
  static constexpr int64_t kEdge = 32;  // of a tile, in input pixels
  static constexpr int64_t kSlices = 64;
  static constexpr int64_t kStep = 8;  // tiles are this much wider in memory than they may need
  static constexpr int64_t kVectorBytes = 64;

  int64_t out_height, out_width;
  int64_t tile_height, tile_width;
  int64_t tiles_down, tiles_across;
  int64_t units;  // tiles of all images
  int64_t slices;
  int64_t scratch_bytes;  // of one thread

  explicit DepthwiseTiling(const MultiDepthwise& op, int64_t input_edge = kEdge) {
    out_height = (op.height - 1) / op.stride + 1;
    out_width = (op.width - 1) / op.stride + 1;
    const int64_t edge = input_edge / op.stride;
    tile_height = ceil_div(out_height, ceil_div(out_height, edge));
    tile_width = ceil_div(ceil_div(out_width, ceil_div(out_width, edge)), kStep) * kStep;
    tiles_down = ceil_div(out_height, tile_height);
    tiles_across = ceil_div(out_width, tile_width);
    units = op.images * tiles_down * tiles_across;
    slices = units < kSlices ? units : kSlices;
    scratch_bytes = kVectorBytes * (input_plane(op) + output_plane(op) + grad_plane(op) +
                                    op.taps() + op.rows() + tile_width);
  }

  // A tile of the input and of a gradient of the output with their margins, and of the gradient of
  // the input, have so many vectors.
  int64_t input_plane(const MultiDepthwise& op) const {
    return (tile_height * op.stride + 2 * op.halo_down()) *
           (tile_width * op.stride + 2 * op.halo_across());
  }
  int64_t output_plane(const MultiDepthwise& op) const {
    return (tile_height + 2 * ceil_div(op.halo_down(), op.stride)) *
           (tile_width + 2 * ceil_div(op.halo_across(), op.stride));
  }
  int64_t grad_plane(const MultiDepthwise& op) const {
    return tile_height * op.stride * tile_width * op.stride;
  }

  int64_t first_unit(int64_t slice) const { return slice * units / slices; }

  static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
};

}  // namespace

namespace cpu {
namespace {

inline DepthwiseWorkspace multi_depthwise_workspace(const MultiDepthwise& op) {
  const DepthwiseTiling tiling(op);
  return {tiling.slices, tiling.scratch_bytes};
}

}  // namespace
}  // namespace cpu

}  // namespace asose
