// A batch norm, and 2x2 max pooling after it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"
#include "lane_grid.h"
#include "norm_tables.h"

namespace asose {

// The height and width of images that are pooled by windows of 2x2, the last ones of which may be
// cut short; such images are dense channels_last. Height 0: they are not pooled.
struct Pooling {
  int64_t height, width;

  ASOSE_INLINE bool wanted() const { return height > 0; }
  ASOSE_INLINE int64_t out_height() const { return (height + 1) / 2; }
  ASOSE_INLINE int64_t out_width() const { return (width + 1) / 2; }
};

// y = BN(z), or what pooling makes of it
struct NormPoolForward {
  DType dtype;
  ChannelSpace space;  // of z
  Pooling pooling;
  const void* z;
  RunningNorm norm;            // but for the statistics of the batch, which are computed
  const double *gamma, *beta;  // [channels]; null: 1 and 0
  double* partials;            // [LaneGrid(space, kSumRows).groups(), 2, channels]
  double* statistics;          // workspace, [2, channels]
  double* mean;                // [channels]: what the norm normalises by
  double* rstd;                // [channels]
  void* tables;                // workspace, [3, channels]
  void* y;
};

// sums[0] = sum g and sums[1] = sum g xhat, over the pixels that the pooling chose:
// dL/dbeta and dL/dgamma.
struct NormPoolBackward {
  DType dtype;
  ChannelSpace space;
  Pooling pooling;
  const void* z;
  const void* grad;
  const double *gamma, *beta, *mean, *rstd;
  bool of_batch;
  double* partials;  // [norm_pool_groups(space, pooling), 2, channels]
  double* sums;      // [2, channels]; null where they are not wanted
  void* tables;      // workspace, [7, channels]
  void* grad_z;      // null where it is not wanted
};

ASOSE_KERNEL(norm_pool_forward, NormPoolForward);
ASOSE_KERNEL(norm_pool_backward, NormPoolBackward);

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// A rectangle of windows in one image.
struct WindowBlock {
  int64_t image, top, bottom, left, right;
};

// Windows are cut, by their number alone, into blocks that are few enough to be summed up in
// float32.
class WindowGrid {
 public:
  WindowGrid(const ChannelSpace& space, const Pooling& pooling)
      : pooling_(pooling),
        columns_(std::min(pooling.out_width(), kSumRows)),
        rows_(kSumRows / columns_),
        across_((pooling.out_width() + columns_ - 1) / columns_),
        down_((pooling.out_height() + rows_ - 1) / rows_),
        images_(space.outer / (pooling.height * pooling.width)) {}

  int64_t blocks() const { return images_ * down_ * across_; }

  WindowBlock block(int64_t index) const {
    const int64_t left = index % across_ * columns_, top = index / across_ % down_ * rows_;
    return {index / across_ / down_, top, std::min(top + rows_, pooling_.out_height()), left,
            std::min(left + columns_, pooling_.out_width())};
  }

 private:
  Pooling pooling_;
  int64_t columns_, rows_, across_, down_, images_;
};

// How many partial sums backward makes.
inline int64_t norm_pool_groups(const ChannelSpace& space, const Pooling& pooling) {
  return pooling.wanted() ? WindowGrid(space, pooling).blocks()
                          : LaneGrid(space, kSumRows).groups();
}

}  // namespace

}  // namespace asose
