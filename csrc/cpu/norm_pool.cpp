// A batch norm with 2x2 max pooling: every pixel is normalised where it is read, so that nothing of
// its size lies between the two. Without pooling these are the kernels of a sum of one term.
#include "../norm_pool.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../mixed_norm_sum.h"
#include "channel_tables.h"
#include "element.h"
#include "measured_norm.h"
#include "norm_gradient.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

template <class A>
using Mask = decltype(Vector<A>{} < Vector<A>{});

// Calls body(first, lanes) for the vectors of channels; lanes are known to the compiler where they
// are all of a vector's.
template <class A, class Body>
inline __attribute__((always_inline)) void for_vectors(int64_t channels, const Body& body) {
  constexpr int64_t kAll = kLanes<A>;
  int64_t c = 0;
  for (; c + kAll <= channels; c += kAll) body(c, std::integral_constant<int, kAll>{});
  if (c < channels) body(c, static_cast<int>(channels - c));
}

// A window: where its upper left pixel begins in z, and where in y what it gives.
struct Window {
  int64_t from, to;
};

// Some windows of a row side by side.
struct WindowRow {
  Window first;
  int64_t windows, channels;
  bool below, right;  // whether the windows, and the last one of them, have all their pixels

  WindowRow(const WindowBlock& block, int64_t y, int64_t channels, const Pooling& pooling)
      : windows(block.right - block.left),
        channels(channels),
        below(2 * y + 1 < pooling.height),
        right(2 * block.right <= pooling.width) {
    const int64_t row = block.image * pooling.height + 2 * y;
    const int64_t out = block.image * pooling.out_height() + y;
    first = {(row * pooling.width + 2 * block.left) * channels,
             (out * pooling.out_width() + block.left) * channels};
  }

  // Calls body(window, inside), where inside(i) says whether a window has its pixel i, in row-major
  // order; the compiler knows it of whole windows.
  template <class Body>
  inline __attribute__((always_inline)) void each(const Body& body) const {
    Window window = first;
    const int64_t whole = below ? windows - !right : 0;
    for (int64_t x = 0; x < whole; ++x, window.from += 2 * channels, window.to += channels)
      body(window, [](int) { return true; });
    for (int64_t x = whole; x < windows; ++x, window.from += 2 * channels, window.to += channels) {
      const bool beside = right || x + 1 < windows;
      body(window,
           [beside, down = below](int i) { return (beside || i % 2 == 0) && (down || i < 2); });
    }
  }
};

// Where the pixels of a window lie behind the first.
struct Offsets {
  int64_t of[4];
  Offsets(int64_t channels, int64_t width)
      : of{0, channels, width * channels, (width + 1) * channels} {}
  int64_t operator[](int i) const { return of[i]; }
  // From a pixel to that of the next windows below, which is fetched in time.
  int64_t ahead() const { return 2 * of[2]; }
};

// BN(z) of a vector of channels as an element holds it, which is what is compared.
template <class T, class A = typename Element<T>::Acc>
struct Norm {
  Vector<A> scale, center, shift;

  // Rows [0, 3) of `table`, [3, channels], from channel `first` on.
  static Norm from(const A* table, int64_t channels, int64_t first, int lanes) {
    const auto row = [&](int i) { return load(table + i * channels + first, lanes); };
    return {row(0), row(1), row(2)};
  }

  Vector<A> operator()(Vector<A> z) const { return as<T>(scale * (z - center) + shift); }
};

// As in PyTorch the first of equal maxima is chosen, and the last NaN before all others.
template <class A>
inline Mask<A> beats(Vector<A> later, Vector<A> earlier) {
  return (later > earlier) | (later != later);
}

double scale_of(const FoldedNorms& norms, int64_t channel) {
  return norms.rstd[channel] * (norms.gamma ? norms.gamma[channel] : 1);
}

// What the tables of a pooled norm hold, in this order.
template <class Acc>
void norm_rows(const FoldedNorms& norms, int64_t channels, Acc* table) {
  for (int64_t c = 0; c < channels; ++c) {
    const double scale = scale_of(norms, c), beta = norms.beta ? norms.beta[c] : 0;
    const Acc center = static_cast<Acc>(norms.mean[c]);
    table[c] = static_cast<Acc>(scale), table[channels + c] = center;
    table[2 * channels + c] = static_cast<Acc>(beta - scale * (norms.mean[c] - center));
  }
}

template <class T, class A = typename Element<T>::Acc>
void pool(const NormPoolForward& args, const FoldedNorms& norms, int threads) {
  const WindowGrid grid(args.space, args.pooling);
  const int64_t blocks = grid.blocks(), channels = args.space.channels;
  const Offsets pixel(channels, args.pooling.width);
  A* table = static_cast<A*>(args.tables);
  norm_rows(norms, channels, table);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t index = 0; index < blocks; ++index) {
    const WindowBlock block = grid.block(index);
    for (int64_t y = block.top; y < block.bottom; ++y) {
      const WindowRow row(block, y, channels, args.pooling);
      for_vectors<A>(channels, [&](int64_t first, auto lanes) {
        const auto norm = Norm<T>::from(table, channels, first, lanes);
        const T* z = static_cast<const T*>(args.z) + first;
        T* to = static_cast<T*>(args.y) + first;
        row.each([&](const Window& window, auto inside) {
          const T* from = z + window.from;
          Vector<A> most = norm(load(from, lanes));
#pragma GCC unroll 3
          for (int i = 1; i < 4; ++i) {
            if (!inside(i)) continue;
            const Vector<A> value = norm(load(from + pixel[i], lanes));
            most = beats<A>(value, most) ? value : most;
          }
          store(to + window.to, most, lanes);
        });
      });
    }
  }
}

// The pixels of a window, and which of them was chosen.
template <class T, class A = typename Element<T>::Acc>
struct Chosen {
  Vector<A> pixels[4] = {}, z;
  Mask<A> position = {};

  template <class Lanes, class Inside>
  inline __attribute__((always_inline)) Chosen(const T* from, const Offsets& pixel, Lanes lanes,
                                               const Norm<T>& norm, const Inside& inside) {
    pixels[0] = z = load(from, lanes);
    __builtin_prefetch(from + pixel.ahead());
    Vector<A> most = norm(z);
#pragma GCC unroll 3
    for (int i = 1; i < 4; ++i) {
      if (!inside(i)) continue;
      pixels[i] = load(from + pixel[i], lanes);
      __builtin_prefetch(from + pixel[i] + pixel.ahead());
      const Vector<A> value = norm(pixels[i]);
      const Mask<A> better = beats<A>(value, most);
      most = better ? value : most;
      z = better ? pixels[i] : z;
      position = better ? Mask<A>{} + i : position;
    }
  }
};

// sums[0] = sum g, sums[1] = sum g (z - center)
template <class T, class A = typename Element<T>::Acc>
void pooled_sums(const NormPoolBackward& args, const A* norms, int threads) {
  const WindowGrid grid(args.space, args.pooling);
  const int64_t blocks = grid.blocks(), channels = args.space.channels;
  const Offsets pixel(channels, args.pooling.width);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t index = 0; index < blocks; ++index) {
      const WindowBlock block = grid.block(index);
      double* partial = args.partials + index * 2 * channels;
      std::fill_n(partial, 2 * channels, 0.0);
      for (int64_t y = block.top; y < block.bottom; ++y) {
        const WindowRow row(block, y, channels, args.pooling);
        for_vectors<A>(channels, [&](int64_t first, auto lanes) {
          const auto norm = Norm<T>::from(norms, channels, first, lanes);
          const T* z = static_cast<const T*>(args.z) + first;
          const T* grad = static_cast<const T*>(args.grad) + first;
          Vector<A> sums[2] = {};
          row.each([&](const Window& window, auto inside) {
            const Chosen<T> chosen(z + window.from, pixel, lanes, norm, inside);
            const Vector<A> g = load(grad + window.to, lanes);
            sums[0] += g;
            sums[1] += g * (chosen.z - norm.center);
          });
          for (int k = 0; k < 2; ++k)
            for (int i = 0; i < lanes; ++i) partial[k * channels + first + i] += sums[k][i];
        });
      }
    }
#pragma omp for schedule(static)
    for (int row = 0; row < 2; ++row)
      add_up(args.sums + row * channels, args.partials + row * channels, blocks, 2 * channels,
             channels);
  }
}

template <class T, bool kOfBatch, class A = typename Element<T>::Acc>
void unpool(const NormPoolBackward& args, const A* norms, const A* gradients, int threads) {
  const WindowGrid grid(args.space, args.pooling);
  const int64_t blocks = grid.blocks(), channels = args.space.channels;
  const Offsets pixel(channels, args.pooling.width);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t index = 0; index < blocks; ++index) {
    const WindowBlock block = grid.block(index);
    for (int64_t y = block.top; y < block.bottom; ++y) {
      const WindowRow row(block, y, channels, args.pooling);
      for_vectors<A>(channels, [&](int64_t first, auto lanes) {
        const auto norm = Norm<T>::from(norms, channels, first, lanes);
        const auto gradient = NormGradient<A>::from(gradients, channels, first, lanes);
        const T* z = static_cast<const T*>(args.z) + first;
        const T* grad = static_cast<const T*>(args.grad) + first;
        T* grad_z = static_cast<T*>(args.grad_z) + first;
        row.each([&](const Window& window, auto inside) {
          const Chosen<T> chosen(z + window.from, pixel, lanes, norm, inside);
          const Vector<A> g = load(grad + window.to, lanes);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            if (!inside(i)) continue;
            T* to = grad_z + window.from + pixel[i];
            __builtin_prefetch(to + pixel.ahead(), 1);
            const Vector<A> of_pixel = chosen.position == i ? g : Vector<A>{};
            store(to, kOfBatch ? gradient(of_pixel, chosen.pixels[i]) : gradient(of_pixel), lanes);
          }
        });
      });
    }
  }
}

template <class T, class A = typename Element<T>::Acc>
void pool_backward(const NormPoolBackward& args, const FoldedNorms& norms, int threads) {
  const int64_t channels = args.space.channels;
  const double count = static_cast<double>(args.space.outer);
  A *table = static_cast<A*>(args.tables), *gradients = table + 3 * channels;
  norm_rows(norms, channels, table);
  std::copy_n(table, 2 * channels, gradients);
  std::fill_n(gradients + 2 * channels, 2 * channels, A{0});
  if (args.sums) {
    pooled_sums<T>(args, table, threads);
    for (int64_t c = 0; c < channels; ++c) {
      double &s0 = args.sums[c], &s1 = args.sums[channels + c];
      const double rest = norms.mean[c] - table[channels + c], rstd = norms.rstd[c];
      s1 = (s1 - rest * s0) * rstd;
      if (!args.of_batch) continue;
      const auto [slope, shift] = ThroughBatch::of(scale_of(norms, c), rstd, rest, s0, s1, count);
      gradients[2 * channels + c] = static_cast<A>(slope);
      gradients[3 * channels + c] = static_cast<A>(shift);
    }
  }
  if (!args.grad_z) return;
  args.of_batch ? unpool<T, true>(args, table, gradients, threads)
                : unpool<T, false>(args, table, gradients, threads);
}

template <class T>
void forward(const NormPoolForward& args, int threads) {
  measure<T>(args.dtype, args.space, args.z, args.norm, args.partials, args.statistics, args.mean,
             args.rstd, threads);
  const FoldedNorms norms{1, args.gamma, args.beta, args.mean, args.rstd};
  if (args.pooling.wanted()) return pool<T>(args, norms, threads);
  const typename Element<T>::Acc weight = 1;
  mixed_norm_sum_forward({args.dtype, args.space, 1, &args.z, &weight, norms, args.tables, args.y},
                         threads);
}

template <class T>
void backward(const NormPoolBackward& args, int threads) {
  const FoldedNorms norms{1, args.gamma, args.beta, args.mean, args.rstd};
  if (args.pooling.wanted()) return pool_backward<T>(args, norms, threads);
  const typename Element<T>::Acc weight = 1;
  const int of_batch = args.of_batch;
  mixed_norm_sum_backward({args.dtype, args.space, 1, &args.z, args.grad, &weight, norms, &of_batch,
                           args.partials, args.sums, args.tables, &args.grad_z},
                          threads);
}

}  // namespace

void norm_pool_forward(const NormPoolForward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void norm_pool_backward(const NormPoolBackward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
