// The gradient of a convolution's output, which is given, or made row by row of that of its norm.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../dense_conv.h"
#include "images.h"
#include "norm_gradient.h"
#include "pooled_norm.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

template <class T>
class OutputGradient {
  using A = typename Element<T>::Acc;

 public:
  explicit OutputGradient(const DenseConvBackward& args)
      : given_{static_cast<const T*>(args.grad), args.op.out_height(), args.op.out_width(),
               args.op.out_channels},
        norm_(args.norm) {}

  int64_t width() const { return given_.width; }
  int64_t channels() const { return given_.channels; }

  // Calls write(y, x, first, lanes, value) for the vectors of channels of the rows [top, bottom).
  template <class Write>
  void rows(int64_t image, int64_t top, int64_t bottom, const Write& write) const {
    if (!norm_)
      return pixels(image, top, bottom, write, [&](int64_t, auto) {
        return [&](int64_t at, auto lanes) { return load(given_.data + at, lanes); };
      });
    if (norm_->dead)
      return pixels(image, top, bottom, write,
                    [&](int64_t, auto) { return [](int64_t, auto) { return Vector<A>{}; }; });
    norm_->of_batch ? normed<true>(image, top, bottom, write)
                    : normed<false>(image, top, bottom, write);
  }

  // The window, which is as wide as the image or wider, with zeros beyond that.
  void fill(const Window& window, A* to) const {
    if (!norm_) return cpu::ASOSE_ISA::fill(given_, window, false, to);
    const int64_t row = window.columns * channels();
    fill_rows(given_, window, to, [](const T*, int64_t, A*) {});
    A* const corner = to - window.left * channels();
    rows(window.image, std::max<int64_t>(window.top, 0),
         std::min(window.top + window.rows, given_.height),
         [&](int64_t y, int64_t x, int64_t first, auto lanes, Vector<A> value) {
           store(corner + (y - window.top) * row + x * channels() + first, value, lanes);
         });
  }

 private:
  // `of_vector` gives what gives the value at a place of the output.
  template <class Write, class OfVector>
  ASOSE_INLINE void pixels(int64_t image, int64_t top, int64_t bottom, const Write& write,
                           const OfVector& of_vector) const {
    for (int64_t y = top; y < bottom; ++y)
      for_vectors<A>(channels(), [&](int64_t first, auto lanes) {
        const auto value = of_vector(first, lanes);
        int64_t at = (image * given_.height + y) * width() * channels() + first;
        for (int64_t x = 0; x < width(); ++x, at += channels())
          write(y, x, first, lanes, value(at, lanes));
      });
  }

  template <bool kOfBatch, class Write>
  void normed(int64_t image, int64_t top, int64_t bottom, const Write& write) const {
    const T* z = static_cast<const T*>(norm_->z);
    const A* tables = static_cast<const A*>(norm_->tables);
    if (norm_->pooling.wanted()) {
      const WindowBlock block{image, 0, 0, 0, norm_->pooling.out_width()};
      for (int64_t y = top / 2; y < (bottom + 1) / 2; ++y) {
        const WindowRow row(block, y, channels(), norm_->pooling);
        unpool<T, kOfBatch>(
            row, width(), z, given_.data, tables,
            [&](const PoolWindow& window, int i, int64_t first, auto lanes, Vector<A> value) {
              const int64_t at = 2 * y + i / 2;
              if (at >= top && at < bottom) write(at, window.x + i % 2, first, lanes, as<T>(value));
            });
      }
      return;
    }
    pixels(image, top, bottom, write, [&](int64_t first, auto lanes) {
      const auto gradient = NormGradient<A>::from(tables, channels(), first, lanes);
      return [=](int64_t at, auto lanes) {
        const Vector<A> g = load(given_.data + at, lanes);
        return as<T>(kOfBatch ? gradient(g, load(z + at, lanes)) : gradient(g));
      };
    });
  }

  Images<const T> given_;
  const OutputNorm* norm_;
};

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
