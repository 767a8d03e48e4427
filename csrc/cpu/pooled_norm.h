// A batch norm under 2x2 max pooling: windows of an image, and which pixel of each was chosen.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../always_inline.h"
#include "../norm_pool.h"
#include "norm_gradient.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

template <class A>
using Mask = decltype(Vector<A>{} < Vector<A>{});

// Calls body(first, lanes) for the vectors of channels; lanes are known to the compiler where they
// are all of a vector's.
template <class A, class Body>
ASOSE_INLINE void for_vectors(int64_t channels, const Body& body) {
  constexpr int64_t kAll = kLanes<A>;
  int64_t c = 0;
  for (; c + kAll <= channels; c += kAll) body(c, std::integral_constant<int, kAll>{});
  if (c < channels) body(c, static_cast<int>(channels - c));
}

// A window: where its upper left pixel begins in z, and where in y what it gives; and the column of
// that pixel, counted from the first window of the row.
struct PoolWindow {
  int64_t from, to, x;

  void step(int64_t channels) { from += 2 * channels, to += channels, x += 2; }
};

// Some windows of a row side by side.
struct WindowRow {
  PoolWindow first;
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
             (out * pooling.out_width() + block.left) * channels, 0};
  }

  // Calls body(window, inside), where inside(i) says whether a window has its pixel i, in row-major
  // order; the compiler knows it of whole windows.
  template <class Body>
  ASOSE_INLINE void each(const Body& body) const {
    PoolWindow window = first;
    const int64_t whole = below ? windows - !right : 0;
    for (int64_t x = 0; x < whole; ++x, window.step(channels))
      body(window, [](int) { return true; });
    for (int64_t x = whole; x < windows; ++x, window.step(channels)) {
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

// The pixels of a window, and which of them was chosen.
template <class T, class A = typename Element<T>::Acc>
struct Chosen {
  Vector<A> pixels[4] = {}, z;
  Mask<A> position = {};

  template <class Lanes, class Inside>
  ASOSE_INLINE Chosen(const T* from, const Offsets& pixel, Lanes lanes, const Norm<T>& norm,
                      const Inside& inside) {
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

// dL/dz of a row of windows: calls write(window, i, first, lanes, value) for their pixels i and the
// vectors of channels. `tables` are those of a pooled norm's backward pass.
template <class T, bool kOfBatch, class A, class Write>
ASOSE_INLINE void unpool(const WindowRow& row, int64_t width, const T* z, const T* grad,
                         const A* tables, const Write& write) {
  const int64_t channels = row.channels;
  const Offsets pixel(channels, width);
  for_vectors<A>(channels, [&](int64_t first, auto lanes) {
    const auto norm = Norm<T>::from(tables, channels, first, lanes);
    const auto gradient = NormGradient<A>::from(tables + 3 * channels, channels, first, lanes);
    row.each([&](const PoolWindow& window, auto inside) {
      const Chosen<T> chosen(z + window.from + first, pixel, lanes, norm, inside);
      const Vector<A> g = load(grad + window.to + first, lanes);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (!inside(i)) continue;
        const Vector<A> of_pixel = chosen.position == i ? g : Vector<A>{};
        write(window, i, first, lanes,
              kOfBatch ? gradient(of_pixel, chosen.pixels[i]) : gradient(of_pixel));
      }
    });
  });
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
