// 1x1 convolutions of a rectified tensor, each of pixels of its own, side by side: convolution g of
// stride s reads the pixels (s i + g, s j + g), and zeros beyond the image.
#pragma once

#include <algorithm>
#include <cstdint>

#include "always_inline.h"
#include "dtype.h"
#include "kernel.h"

namespace asose {

constexpr int kMaxPointwise = 2;  // at most one a stride, so that no two read the same pixel

struct Pointwise {
  DType dtype;
  int64_t images, channels, height, width;
  int stride, count;
  int64_t outputs[kMaxPointwise];      // channels of each convolution
  const void* x;                       // channels_last, and so are z and its gradient
  const void* weights[kMaxPointwise];  // [outputs, channels] each, of the accumulation type

  ASOSE_INLINE int64_t out_height() const { return (height + stride - 1) / stride; }
  ASOSE_INLINE int64_t out_width() const { return (width + stride - 1) / stride; }
  ASOSE_INLINE int64_t pixels() const { return images * out_height() * out_width(); }
  ASOSE_INLINE int64_t out_channels() const {
    int64_t sum = 0;
    for (int g = 0; g < count; ++g) sum += outputs[g];
    return sum;
  }
  // The gradient of the weights is summed up in so many pieces, however many threads there are.
  ASOSE_INLINE int64_t slices() const { return std::clamp<int64_t>(pixels() / 256, 1, 64); }
};

struct PointwiseForward {
  Pointwise op;
  void* transposed;  // workspace, [channels, sum of outputs]
  void* z;
};

struct PointwiseBackward {
  Pointwise op;
  const void* grad;
  void* grad_x;                       // null where it is not wanted
  void* partials;                     // [slices, sum of outputs, channels]; null where the next are
  void* grad_weights[kMaxPointwise];  // [outputs, channels] each; null where they are not wanted
};

ASOSE_KERNEL(pointwise_forward, PointwiseForward);
ASOSE_KERNEL(pointwise_backward, PointwiseBackward);

}  // namespace asose
