// Average pooling, 2x2 with stride 2, of what is inside the image.
#pragma once

#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"

namespace asose {

struct AvgPool2x2 {
  DType dtype;
  int64_t images, channels, height, width;  // of x; all tensors are dense channels_last

  ASOSE_INLINE int64_t out_height() const { return (height + 1) / 2; }
  ASOSE_INLINE int64_t out_width() const { return (width + 1) / 2; }
};

struct AvgPool2x2Forward {
  AvgPool2x2 op;
  const void* x;
  void* y;
};

struct AvgPool2x2Backward {
  AvgPool2x2 op;
  const void* grad;
  void* grad_x;
};

ASOSE_KERNEL(avg_pool_2x2_forward, AvgPool2x2Forward);
ASOSE_KERNEL(avg_pool_2x2_backward, AvgPool2x2Backward);

}  // namespace asose
