// 2x2 average pooling on the CPU, a row of outputs at a time. Pixels are added in the order of
// PyTorch, and shares are powers of two, so that float32 results are PyTorch's to the bit.
#include "../avg_pool_2x2.h"

#include <algorithm>
#include <cstdint>

#include "element.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Calls body(x, columns) for the windows of a row, which are two pixels wide but for the last of an
// odd width.
template <class Body>
inline __attribute__((always_inline)) void for_windows(const AvgPool2x2& op, const Body& body) {
  for (int64_t x = 0; x < op.width / 2; ++x) body(x, 2);
  if (op.width % 2) body(op.width / 2, 1);
}

// Calls body(to, from, rows, lanes) for row `row` of the outputs of all images, a vector of
// channels at a time: where these are in the outputs, where in x, and how many rows a window has.
// The last vector begins early enough to be whole.
template <class A, class Body>
inline __attribute__((always_inline)) void for_channels(const AvgPool2x2& op, int64_t row,
                                                        const Body& body) {
  const int64_t image = row / op.out_height(), y = row % op.out_height();
  const int rows = 2 * y + 1 < op.height ? 2 : 1;
  const int64_t last = std::max<int64_t>(op.channels - kLanes<A>, 0);
  for (int64_t c = 0; c < op.channels; c += kLanes<A>) {
    const int64_t first = std::min(c, last);
    body(row * op.out_width() * op.channels + first,
         (image * op.height + 2 * y) * op.width * op.channels + first, rows,
         static_cast<int>(std::min<int64_t>(kLanes<A>, op.channels)));
  }
}

template <class T>
void forward(const AvgPool2x2Forward& args, int threads) {
  using A = typename Element<T>::Acc;
  const AvgPool2x2& op = args.op;
  const int64_t pitch = op.width * op.channels, out_rows = op.images * op.out_height();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < out_rows; ++row)
    for_channels<A>(op, row, [&](int64_t to, int64_t from, int rows, int lanes) {
      const T* pixels = static_cast<const T*>(args.x) + from;
      T* y = static_cast<T*>(args.y) + to;
      for_windows(op, [&](int64_t x, int columns) __attribute__((always_inline)) {
        Vector<A> sum = {};
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < columns; ++j)
            sum += load(pixels + i * pitch + (2 * x + j) * op.channels, lanes);
        store(y + x * op.channels, sum * (A{1} / static_cast<A>(rows * columns)), lanes);
      });
    });
}

template <class T>
void backward(const AvgPool2x2Backward& args, int threads) {
  using A = typename Element<T>::Acc;
  const AvgPool2x2& op = args.op;
  const int64_t pitch = op.width * op.channels, out_rows = op.images * op.out_height();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < out_rows; ++row)
    for_channels<A>(op, row, [&](int64_t from, int64_t to, int rows, int lanes) {
      const T* grad = static_cast<const T*>(args.grad) + from;
      T* pixels = static_cast<T*>(args.grad_x) + to;
      for_windows(op, [&](int64_t x, int columns) __attribute__((always_inline)) {
        const Vector<A> share =
            load(grad + x * op.channels, lanes) * (A{1} / static_cast<A>(rows * columns));
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < columns; ++j)
            store(pixels + i * pitch + (2 * x + j) * op.channels, share, lanes);
      });
    });
}

}  // namespace

void avg_pool_2x2_forward(const AvgPool2x2Forward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void avg_pool_2x2_backward(const AvgPool2x2Backward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
