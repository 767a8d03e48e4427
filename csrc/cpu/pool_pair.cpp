// Average and max pooling on the CPU. Backward finds the positions of the maxima again rather than
// keeping them, and gathers: every input pixel sums over the windows that hold it.
#include "../pool_pair.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "element.h"
#include "norm_gradient.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

constexpr int64_t kBandRows = 16;

template <class A>
using Lanes = decltype(Vector<A>{} < Vector<A>{});  // signed integers as wide as A

// The rows of window row y that are inside the image: from which to which of its three.
struct Rows {
  int top, bottom;
  Rows(const PoolPair& op, int64_t y)
      : top(y == 0),
        bottom(static_cast<int>(std::min<int64_t>(3, op.height - y * op.stride + 1))) {}
};

// How many pixels of window x, with `rows` rows, are inside the image.
int64_t window_size(const PoolPair& op, const Rows& rows, int64_t x) {
  const int64_t columns = 1 + (x > 0) + (x * op.stride + 1 < op.width);
  return (rows.bottom - rows.top) * columns;
}

// What is looked for in windows. A position is that of the maximum.
enum Wanted { kSum = 1, kMax = 2, kPosition = 4 };

// A window, or one of its columns.
template <class A>
struct Pooled {
  Vector<A> sum = {}, max = Vector<A>{} - static_cast<A>(INFINITY);
  Lanes<A> position =
      Lanes<A>{} + 9;  // row-major in the window; outside the image after all others
};

// The three pixels from `pixel` down, of which those from `top` to `bottom` are inside the image.
template <class T, int kWanted, class A = typename Element<T>::Acc>
inline __attribute__((always_inline)) Pooled<A> pool_column(const T* pixel, int64_t pitch, int top,
                                                            int bottom, int lanes) {
  Pooled<A> column;
  column.position = Lanes<A>{} + top * 3;
  for (int i = top; i < bottom; ++i) {
    const Vector<A> value = load(pixel + i * pitch, lanes);
    if constexpr (kWanted & kSum) column.sum += value;
    if constexpr (kWanted & (kMax | kPosition)) {
      const Lanes<A> better = (value > column.max) | (value != value);
      column.max = better ? value : column.max;
      if constexpr (kWanted & kPosition)
        column.position = better ? Lanes<A>{} + i * 3 : column.position;
    }
  }
  return column;
}

// Adds column j to those before it. The position is that of the first of equal maxima, or of the
// last NaN, which beats all.
template <int kWanted, class A>
inline __attribute__((always_inline)) void add_column(Pooled<A>& window, const Pooled<A>& column,
                                                      int j) {
  if constexpr (kWanted & kSum) window.sum += column.sum;
  if constexpr (!(kWanted & (kMax | kPosition))) return;
  const Lanes<A> larger = column.max > window.max, nan = column.max != column.max;
  Lanes<A> better = larger | nan;
  if constexpr (kWanted & kPosition) {
    const Lanes<A> position = column.position + j, earlier = position < window.position;
    const Lanes<A> equal = column.max == window.max, nan_before = window.max != window.max;
    better = larger | (equal & earlier) | (nan & ~(nan_before & earlier));
    window.position = better ? position : window.position;
  }
  window.max = better ? column.max : window.max;
}

// Calls found(x, window) for a row of windows. Each column is pooled once, for all windows that
// hold it. `first` is the upper left pixel of a window at x = 0, outside the image.
template <class T, int S, int kWanted, class Found>
inline __attribute__((always_inline)) void pool_row(const T* first, const PoolPair& op, int top,
                                                    int bottom, int lanes, const Found& found) {
  using A = typename Element<T>::Acc;
  const int64_t pitch = op.width * op.channels, out_width = op.out_width();
  const auto column = [&](int64_t x) __attribute__((always_inline)) {
    if (x < 0 || x >= op.width) return Pooled<A>{};
    return pool_column<T, kWanted>(first + (x + 1) * op.channels, pitch, top, bottom, lanes);
  };
  Pooled<A> left, middle = column(-1), right = column(S == 1 ? 0 : -1);
  for (int64_t x = 0; x < out_width; ++x) {
    left = S == 1 ? middle : right;
    middle = S == 1 ? right : column(x * S);
    right = column(x * S + 1);
    Pooled<A> window = left;
    add_column<kWanted>(window, middle, 1);
    add_column<kWanted>(window, right, 2);
    found(x, window);
  }
}

// The same is done for window row y of an image, unrolled where all of it is inside.
template <class T, int S, int kWanted, class Found>
void pool_row(const PoolPair& op, int64_t image, int64_t y, int64_t channel, int lanes,
              const Found& found) {
  constexpr int kAll = kLanes<typename Element<T>::Acc>;
  const Rows rows(op, y);
  const T* first = static_cast<const T*>(op.x) + channel +
                   ((image * op.height + y * S - 1) * op.width - 1) * op.channels;
  if (lanes == kAll && rows.top == 0 && rows.bottom == 3)
    pool_row<T, S, kWanted>(first, op, 0, 3, kAll, found);
  else
    pool_row<T, S, kWanted>(first, op, rows.top, rows.bottom, lanes, found);
}

template <class T, int S, int kWanted, class A = typename Element<T>::Acc>
void forward_row(const PoolPairForward& args, int64_t row) {
  const PoolPair& op = args.op;
  const int64_t image = row / op.out_height(), y = row % op.out_height();
  const Rows rows(op, y);
  const int64_t ahead = op.out_width() * op.channels;
  for (int64_t c = 0; c < op.channels; c += kLanes<A>) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes<A>, op.channels - c));
    pool_row<T, S, kWanted>(op, image, y, c, lanes, [&](int64_t x, const Pooled<A>& window) {
      const int64_t to = (row * op.out_width() + x) * op.channels + c;
      if constexpr (kWanted & kSum) {
        T* average = static_cast<T*>(args.average) + to;
        store(average, window.sum * (A{1} / static_cast<A>(window_size(op, rows, x))), lanes);
        __builtin_prefetch(average + ahead, 1);
      }
      if constexpr (kWanted & kMax) {
        T* max = static_cast<T*>(args.max) + to;
        store(max, window.max, lanes);
        __builtin_prefetch(max + ahead, 1);
      }
    });
  }
}

template <class T, int S>
void forward(const PoolPairForward& args, int threads) {
  if (!args.average && !args.max) return;
  const int64_t rows = args.op.images * args.op.out_height();
  const auto run = !args.max       ? forward_row<T, S, kSum>
                   : !args.average ? forward_row<T, S, kMax>
                                   : forward_row<T, S, kSum | kMax>;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < rows; ++row) run(args, row);
}

// Sums of what windows hand back to three rows of pixels, with a margin of one around the columns.
template <class A>
class PixelRows {
 public:
  PixelRows(void* memory, int64_t width)
      : sums_(static_cast<Vector<A>*>(memory)), pitch_(width + 2) {
    std::fill_n(sums_, 3 * pitch_, Vector<A>{});
  }
  Vector<A>* operator[](int64_t y) { return sums_ + (y + 3) % 3 * pitch_ + 1; }

 private:
  Vector<A>* sums_;
  int64_t pitch_;
};

// Adds the gradients of window row y to its three rows of pixels.
template <class T, int S, class A = typename Element<T>::Acc>
void scatter_row(const PoolPairBackward& args, const NormGradient<A>* norms, int64_t image,
                 int64_t y, int64_t channel, int lanes, PixelRows<A>& sums) {
  const PoolPair& op = args.op;
  const int64_t start = (image * op.out_height() + y) * op.out_width() * op.channels + channel;
  const int64_t ahead = op.out_width() * op.channels;
  const auto gradient = [&](int pool, int64_t x) __attribute__((always_inline)) {
    const int64_t at = start + x * op.channels;
    const T* grad = static_cast<const T*>(args.grad[pool]) + at;
    const Vector<A> g = load(grad, lanes);
    __builtin_prefetch(grad + ahead);
    if (!args.tables) return g;
    if (!args.z[pool]) return norms[pool](g);
    const T* z = static_cast<const T*>(args.z[pool]) + at;
    __builtin_prefetch(z + ahead);
    return norms[pool](g, load(z, lanes));
  };
  const Rows rows(op, y);
  const auto share = [&](int64_t x) __attribute__((always_inline)) {
    if (!args.grad[0]) return Vector<A>{};
    return gradient(0, x) * (A{1} / static_cast<A>(window_size(op, rows, x)));
  };
  Vector<A>* to[3];
  for (int i = 0; i < 3; ++i) to[i] = sums[y * S - 1 + i] - 1;
  if (!args.grad[1]) {
    for (int64_t x = 0; x < op.out_width(); ++x) {
      const Vector<A> average = share(x);
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) to[i][x * S + j] += average;
    }
    return;
  }
  pool_row<T, S, kPosition>(op, image, y, channel, lanes, [&](int64_t x, const Pooled<A>& window) {
    const Vector<A> average = share(x), max = gradient(1, x);
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i)
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j)
        to[i][x * S + j] += window.position == i * 3 + j ? average + max : average;
  });
}

// Writes row y of dL/dx, and clears its sums.
template <class T, class A = typename Element<T>::Acc>
void gather_row(const PoolPairBackward& args, int64_t image, int64_t y, int64_t channel, int lanes,
                Vector<A>* sums) {
  const PoolPair& op = args.op;
  int64_t at = (image * op.height + y) * op.width * op.channels + channel;
  for (int64_t x = 0; x < op.width; ++x, at += op.channels) {
    Vector<A> sum = sums[x];
    sums[x] = Vector<A>{};
    for (int term = 0; term < args.terms; ++term) {
      const T* from = static_cast<const T*>(args.term[term]) + at;
      sum += static_cast<A>(args.factor[term]) * load(from, lanes);
      __builtin_prefetch(from + op.width * op.channels);
    }
    T* to = static_cast<T*>(args.grad_x) + at;
    store(to, sum, lanes);
    __builtin_prefetch(to + op.width * op.channels, 1);
  }
}

// Input rows [first, last) of one image and block of channels.
template <class T, int S, class A = typename Element<T>::Acc>
void backward_band(const PoolPairBackward& args, int64_t image, int64_t first, int64_t last,
                   int64_t channel, int lanes) {
  const PoolPair& op = args.op;
  PixelRows<A> sums(
      static_cast<char*>(args.scratch) + omp_get_thread_num() * pool_pair_scratch_bytes(op),
      op.width);
  NormGradient<A> norms[2] = {};
  for (int pool = 0; pool < 2; ++pool)
    if (args.tables)
      norms[pool] = NormGradient<A>::from(
          static_cast<const A*>(args.tables) + pool * 4 * op.channels, op.channels, channel, lanes);

  // The windows that hold one of the rows, and the rows that are complete after each.
  const int64_t top = std::max<int64_t>(S == 1 ? first - 1 : first / 2, 0);
  const int64_t bottom = std::min(S == 1 ? last : last / 2, op.out_height() - 1);
  int64_t done = top * S - 1;
  for (int64_t y = top; y <= bottom; ++y) {
    scatter_row<T, S>(args, norms, image, y, channel, lanes, sums);
    const int64_t complete = y < bottom ? (y + 1) * S - 1 : last;
    for (; done < complete; ++done)
      if (done >= first)
        gather_row<T>(args, image, done, channel, lanes, sums[done]);
      else
        std::fill_n(sums[done] - 1, op.width + 2, Vector<A>{});
  }
}

template <class T>
void backward(const PoolPairBackward& args, int threads) {
  using A = typename Element<T>::Acc;
  const PoolPair& op = args.op;
  const int64_t bands = (op.height + kBandRows - 1) / kBandRows;
  const int64_t blocks = (op.channels + kLanes<A> - 1) / kLanes<A>;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
  for (int64_t band = 0; band < op.images * bands; ++band)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = band % bands * kBandRows;
      const int64_t last = std::min(first + kBandRows, op.height), channel = block * kLanes<A>;
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes<A>, op.channels - channel));
      const auto run = op.stride == 1 ? backward_band<T, 1> : backward_band<T, 2>;
      run(args, band / bands, first, last, channel, lanes);
    }
}

}  // namespace

void pool_pair_forward(const PoolPairForward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) {
    using T = decltype(zero);
    args.op.stride == 1 ? forward<T, 1>(args, threads) : forward<T, 2>(args, threads);
  });
}

void pool_pair_backward(const PoolPairBackward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
