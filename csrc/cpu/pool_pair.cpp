// Average and max pooling on the CPU. Backward finds the positions of the maxima again rather than
// keeping them, and gathers: every input pixel sums over the windows that hold it.
#include "../pool_pair.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "norm_gradient.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

constexpr int64_t kBandRows = 16;

template <class A>
using Lanes = decltype(Vector<A>{} < Vector<A>{});  // signed integers as wide as A

// The part of a window inside the image: offsets of its 3 x 3 pixels.
struct Window {
  int top, bottom, left, right;  // bottom and right are excluded
  int count() const { return (bottom - top) * (right - left); }
  bool whole() const { return count() == 9; }
};

Window window(const PoolPair& op, int64_t y, int64_t x) {
  const int64_t top = y * op.stride - 1, left = x * op.stride - 1;
  return {top < 0, static_cast<int>(std::min<int64_t>(3, op.height - top)), left < 0,
          static_cast<int>(std::min<int64_t>(3, op.width - left))};
}

template <class A>
struct Pooled {
  Vector<A> sum, max;
  Lanes<A> position;  // row-major in the window, the first of equal maxima; a NaN beats all
};

// `corner` is the window's pixel (0, 0), which may lie outside the image.
template <class T>
inline __attribute__((always_inline)) Pooled<typename Element<T>::Acc> pool(const T* corner,
                                                                            const PoolPair& op,
                                                                            const Window& window,
                                                                            int lanes) {
  using A = typename Element<T>::Acc;
  Pooled<A> result = {{}, Vector<A>{} - static_cast<A>(INFINITY), {}};
  result.position = Lanes<A>{} + (window.top * 3 + window.left);
  for (int i = window.top; i < window.bottom; ++i)
    for (int j = window.left; j < window.right; ++j) {
      const Vector<A> value = load(corner + (i * op.width + j) * op.channels, lanes);
      const Lanes<A> better = (value > result.max) | (value != value);
      result.sum += value;
      result.max = better ? value : result.max;
      result.position = better ? Lanes<A>{} + (i * 3 + j) : result.position;
    }
  return result;
}

// As above, unrolled for the windows inside the image.
template <class T>
Pooled<typename Element<T>::Acc> pool_any(const T* corner, const PoolPair& op, const Window& window,
                                          int lanes) {
  return window.whole() ? pool(corner, op, {0, 3, 0, 3}, lanes) : pool(corner, op, window, lanes);
}

template <class T>
const T* corner(const PoolPair& op, int64_t image, int64_t y, int64_t x) {
  const int64_t row = image * op.height + y * op.stride - 1;
  return static_cast<const T*>(op.x) + (row * op.width + x * op.stride - 1) * op.channels;
}

template <class T>
void forward(const PoolPairForward& args) {
  using A = typename Element<T>::Acc;
  const PoolPair& op = args.op;
  const int64_t rows = op.images * op.out_height();
#pragma omp parallel for schedule(static) num_threads(op.threads)
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t x = 0; x < op.out_width(); ++x) {
      const int64_t image = row / op.out_height(), y = row % op.out_height();
      const Window inside = window(op, y, x);
      const A part = A{1} / static_cast<A>(inside.count());
      const T* from = corner<T>(op, image, y, x);
      const int64_t to = (row * op.out_width() + x) * op.channels;
      for (int64_t c = 0; c < op.channels; c += kLanes<A>) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes<A>, op.channels - c));
        const Pooled<A> pooled = pool_any(from + c, op, inside, lanes);
        store(static_cast<T*>(args.average) + to + c, pooled.sum * part, lanes);
        store(static_cast<T*>(args.max) + to + c, pooled.max, lanes);
      }
    }
}

// What a window hands back to its pixels.
template <class A>
struct Share {
  Vector<A> average;  // to each
  Vector<A> max;      // to the pixel at `position`
  Lanes<A> position;
};

// The shares of one row of windows; row[-1] and row[out_width] are the margin. A row outside the
// image has none to give.
template <class T, class A = typename Element<T>::Acc>
void share_row(const PoolPairBackward& args, const NormGradient<A>* norms, int64_t image, int64_t y,
               int64_t channel, int lanes, Share<A>* row) {
  const PoolPair& op = args.op;
  const bool outside = y < 0 || y >= op.out_height();
  if (outside) std::fill(row - 1, row + op.out_width() + 1, Share<A>{});
  row[-1] = row[op.out_width()] = Share<A>{};
  const int64_t ahead = op.out_width() * op.channels;
  const auto gradient = [&](int pool, int64_t at) {
    const T* grad = static_cast<const T*>(args.grad[pool]) + at;
    const Vector<A> g = load(grad, lanes);
    __builtin_prefetch(grad + ahead);
    if (!args.tables) return g;
    if (!args.z[pool]) return norms[pool](g);
    const T* z = static_cast<const T*>(args.z[pool]) + at;
    __builtin_prefetch(z + ahead);
    return norms[pool](g, load(z, lanes));
  };
  for (int64_t x = 0; !outside && x < op.out_width(); ++x) {
    const int64_t at = ((image * op.out_height() + y) * op.out_width() + x) * op.channels + channel;
    const Window inside = window(op, y, x);
    Share<A> share = {};
    if (args.grad[0]) share.average = gradient(0, at) * (A{1} / static_cast<A>(inside.count()));
    if (args.grad[1]) {
      share.max = gradient(1, at);
      __builtin_prefetch(corner<T>(op, image, y + 2, x) + channel);
      share.position = pool_any(corner<T>(op, image, y, x) + channel, op, inside, lanes).position;
    }
    row[x] = share;
  }
}

// Input rows [first, last) of one image and block of channels.
template <class T, int S, class A = typename Element<T>::Acc>
void backward_band(const PoolPairBackward& args, int64_t image, int64_t first, int64_t last,
                   int64_t channel, int lanes) {
  const PoolPair& op = args.op;
  const int64_t pitch = op.out_width() + 2;
  Share<A>* scratch = reinterpret_cast<Share<A>*>(
      static_cast<char*>(args.scratch) + omp_get_thread_num() * pool_pair_scratch_bytes(op));
  const auto shares = [&](int64_t y) { return scratch + (y + 3) % 3 * pitch + 1; };
  // The windows that hold position p along an axis: [first_window(p), last_window(p)].
  const auto first_window = [](int64_t p) { return S == 1 ? p - 1 : p / 2; };
  const auto last_window = [](int64_t p) { return S == 1 ? p + 1 : (p + 1) / 2; };

  NormGradient<A> norms[2] = {};
  for (int pool = 0; pool < 2; ++pool)
    if (args.tables)
      norms[pool] = NormGradient<A>::from(
          static_cast<const A*>(args.tables) + pool * 4 * op.channels, op.channels, channel, lanes);

  int64_t next = first_window(first);
  for (int64_t y = first; y < last; ++y) {
    for (; next <= last_window(y); ++next)
      share_row<T>(args, norms, image, next, channel, lanes, shares(next));
    int64_t at = (image * op.height + y) * op.width * op.channels + channel;
    const int64_t top = first_window(y), rows = last_window(y) - top + 1;
    const Share<A>* row[3];
    for (int64_t i = 0; i < rows; ++i) row[i] = shares(top + i);
    for (int64_t x = 0; x < op.width; ++x, at += op.channels) {
      Vector<A> sum = {};
      for (int term = 0; term < args.terms; ++term) {
        const T* from = static_cast<const T*>(args.term[term]) + at;
        sum += static_cast<A>(args.factor[term]) * load(from, lanes);
        __builtin_prefetch(from + op.width * op.channels);
      }
      const int64_t left = first_window(x), columns = last_window(x) - left + 1;
      const int corner = static_cast<int>((y - top * S + 1) * 3 + x - left * S + 1);
      const auto add = [&](int64_t i, int64_t j) {
        const Share<A>& share = row[i][left + j];
        sum += share.average;
        sum +=
            share.position == corner - static_cast<int>((i * 3 + j) * S) ? share.max : Vector<A>{};
      };
      if constexpr (S == 1) {
#pragma GCC unroll 3
        for (int64_t i = 0; i < 3; ++i)
#pragma GCC unroll 3
          for (int64_t j = 0; j < 3; ++j) add(i, j);
      } else {
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < columns; ++j) add(i, j);
      }
      T* to = static_cast<T*>(args.grad_x) + at;
      store(to, sum, lanes);
      __builtin_prefetch(to + op.width * op.channels, 1);
    }
  }
}

template <class T>
void backward(const PoolPairBackward& args) {
  using A = typename Element<T>::Acc;
  const PoolPair& op = args.op;
  const int64_t bands = (op.height + kBandRows - 1) / kBandRows;
  const int64_t blocks = (op.channels + kLanes<A> - 1) / kLanes<A>;
#pragma omp parallel for collapse(2) schedule(static) num_threads(op.threads)
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

void pool_pair_forward(const PoolPairForward& args) {
  switch (args.op.dtype) {
    case DType::f32:
      return forward<float>(args);
    case DType::f64:
      return forward<double>(args);
    case DType::bf16:
      return forward<bfloat16>(args);
  }
}

void pool_pair_backward(const PoolPairBackward& args) {
  switch (args.op.dtype) {
    case DType::f32:
      return backward<float>(args);
    case DType::f64:
      return backward<double>(args);
    case DType::bf16:
      return backward<bfloat16>(args);
  }
}

}  // namespace asose::cpu::ASOSE_ISA
