// A tile of an image on the CPU: read once, activated and with its zero margin, as vectors of the
// accumulation type that stay in the cache while every branch reads them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../multi_depthwise.h"
#include "depthwise_rows.h"
#include "stream.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

static_assert(DepthwiseTiling::kStep % kStep == 0 && DepthwiseTiling::kVectorBytes >= kVectorBytes);

constexpr int64_t kAhead = 4;  // rows between reading a tensor and prefetching it

// The channels [first, first + lanes) of a channels_last tensor's image.
template <class T>
struct Image {
  T* data;
  int64_t height, width, channels;
  int lanes;
  bool streamed;  // written around the caches
  T* pixel(int64_t y, int64_t x) const { return data + (y * width + x) * channels; }
};

template <class T>
Image<T> image(void* tensor, int64_t n, int64_t images, int64_t height, int64_t width,
               int64_t channels, int64_t first, int lanes) {
  T* data = tensor ? static_cast<T*>(tensor) + n * height * width * channels + first : nullptr;
  return {data,     height, width,
          channels, lanes,  streams_pixels<T>(tensor, images * height * width, channels)};
}

template <class T>
Image<const T> constant(const Image<T>& image) {
  return {image.data, image.height, image.width, image.channels, image.lanes, image.streamed};
}

// Calls body(lanes), with a constant where the whole vector is used: a loop in it asks only once.
template <class A, class Body>
inline void with_lanes(int lanes, const Body& body) {
  if (lanes == kLanes<A>)
    body(std::integral_constant<int, kLanes<A>>{});
  else
    body(lanes);
}

template <class A>
struct Activation {
  bool affine = false, relu = false;
  Vector<A> scale = {}, shift = {};

  // A NaN stays one.
  Vector<A> operator()(Vector<A> value) const {
    if (affine) value = value * scale + shift;
    return relu ? clip(value) : value;
  }
  static Vector<A> clip(Vector<A> value) { return value < Vector<A>{} ? Vector<A>{} : value; }
};

// A tile lies here in its image, in output pixels.
struct Tile {
  int64_t image, top, left;
  int height, width;

  Tile(const DepthwiseTiling& tiling, int64_t unit)
      : image(unit / (tiling.tiles_down * tiling.tiles_across)),
        top(unit / tiling.tiles_across % tiling.tiles_down * tiling.tile_height),
        left(unit % tiling.tiles_across * tiling.tile_width),
        height(static_cast<int>(std::min(tiling.tile_height, tiling.out_height - top))),
        width(static_cast<int>(std::min(tiling.tile_width, tiling.out_width - left))) {}

  // The width that row kernels work on.
  int padded() const { return (width + kStep - 1) / kStep * kStep; }
};

// A tile of an image with its margin, which is 0 outside the image. Rows are filled in order, as
// they are needed.
template <class T>
class PaddedTile {
  using A = typename Element<T>::Acc;

 public:
  PaddedTile(Vector<A>* memory, const Image<const T>& image, int64_t top, int64_t left, int width,
             int64_t halo_down, int64_t halo_across, const Activation<A>& activation)
      : image_(image),
        activation_(activation),
        top_(top),
        left_(left - halo_across),
        next_(-halo_down),
        pitch_(width + 2 * halo_across),
        plane_{memory + halo_down * pitch_ + halo_across, pitch_},
        halo_across_(halo_across) {}

  const Plane<A>& filled_to(int64_t row) {
    for (; next_ <= row; ++next_)
      fill(plane_.row(static_cast<int>(next_)) - halo_across_, top_ + next_);
    return plane_;
  }
  const Plane<A>& plane() const { return plane_; }

 private:
  void fill(Vector<A>* row, int64_t y) {
    const bool inside = 0 <= y && y < image_.height;
    const int64_t first = inside ? std::clamp<int64_t>(-left_, 0, pitch_) : pitch_;
    const int64_t last = inside ? std::clamp(image_.width - left_, first, pitch_) : pitch_;
    std::fill(row, row + first, Vector<A>{});
    if (inside) read(image_.pixel(y, left_ + first), last - first, row + first);
    std::fill(row + last, row + pitch_, Vector<A>{});
  }

  // `count` pixels of a row, activated.
  void read(const T* from, int64_t count, Vector<A>* to) const {
    const int64_t channels = image_.channels, ahead = kAhead * image_.width * channels;
    const auto row = [&](auto activation) {
      with_lanes<A>(image_.lanes, [&](auto lanes) {
        for (int64_t x = 0; x < count; ++x, from += channels) {
          to[x] = activation(load(from, lanes));
          __builtin_prefetch(from + ahead);
        }
      });
    };
    const Activation<A> all = activation_;
    if (all.affine)
      row(all);
    else if (all.relu)
      row([](Vector<A> value) { return Activation<A>::clip(value); });
    else
      row([](Vector<A> value) { return value; });
  }

  const Image<const T> image_;
  const Activation<A> activation_;
  const int64_t top_, left_;
  int64_t next_;  // first row not filled yet
  const int64_t pitch_;
  const Plane<A> plane_;
  const int64_t halo_across_;
};

// Writes a row of a tile; where it stays in the caches, it prefetches where a later one goes: a
// store waits for the line that it overwrites. `end_stream` must follow.
template <class T, class A = typename Element<T>::Acc>
void write_row(const Image<T>& image, int64_t y, int64_t left, const Vector<A>* row, int width) {
  const int64_t channels = image.channels, ahead = kAhead * image.width * channels;
  T* to = image.pixel(y, left);
  if constexpr (kVectorsAreLines<T>)
    if (image.streamed) {
      for (int x = 0; x < width; ++x, to += channels) stream(to, row[x]);
      return;
    }
  with_lanes<A>(image.lanes, [&](auto lanes) {
    for (int x = 0; x < width; ++x, to += channels) {
      store(to, row[x], lanes);
      __builtin_prefetch(to + ahead, 1);
    }
  });
}

template <class A>
struct Branch {
  Geometry geometry;
  RowKernels<A> kernels;
  int64_t first_tap;

  Branch() = default;
  Branch(const MultiDepthwise& op, int b, int64_t first_tap)
      : geometry{static_cast<int>(op.kernels[b]),
                 static_cast<int>(std::min<int64_t>(op.dilations[b], INT32_MAX)), op.stride,
                 static_cast<int>(op.reach(b, op.height)), static_cast<int>(op.reach(b, op.width))},
        kernels(row_kernels<A>(geometry)),
        first_tap(first_tap) {}
};

// The gradient of an input from that of its activation: grad_x = scale * mask * grad. Where
// asked for, the sums of the masked gradient, and of it times x, are added for the affine map.
template <class T, class A = typename Element<T>::Acc>
void finish_input_gradient(const Activation<A>& activation, const Plane<A>& active,
                           const Plane<A>& grad, const Image<const T>& x, const Image<T>& grad_x,
                           int64_t top, int64_t left, int64_t tile_height, int64_t tile_width,
                           Vector<A>* sum_scale, Vector<A>* sum_shift) {
  const int height = static_cast<int>(std::min(tile_height, x.height - top));
  const int width = static_cast<int>(std::min(tile_width, x.width - left));
  const int64_t channels = x.channels, ahead = kAhead * x.width * channels;
  const bool relu = activation.relu;
  const Vector<A> factor = activation.affine ? activation.scale : Vector<A>{} + 1;
  with_lanes<A>(x.lanes, [&](auto lanes) {
    Vector<A> of_scale = {}, of_shift = {};
    for (int y = 0; y < height; ++y) {
      const Vector<A>*value = active.row(y), *row = grad.row(y);
      const auto masked = [&](int i) {
        return relu ? (value[i] <= Vector<A>{} ? Vector<A>{} : row[i]) : row[i];
      };
      const T* from = x.pixel(top + y, left);
      if (sum_scale)
        for (int i = 0; i < width; ++i) {
          const Vector<A> g = masked(i);
          of_scale += g * load(from + i * channels, lanes);
          of_shift += g;
        }
      if (!grad_x.data) continue;
      T* to = grad_x.pixel(top + y, left);
      if constexpr (kVectorsAreLines<T>)
        if (grad_x.streamed) {
          for (int i = 0; i < width; ++i, to += channels) stream(to, masked(i) * factor);
          continue;
        }
      for (int i = 0; i < width; ++i, to += channels) {
        store(to, masked(i) * factor, lanes);
        __builtin_prefetch(to + ahead, 1);
      }
    }
    if (!sum_scale) return;
    *sum_scale += of_scale;
    *sum_shift += of_shift;
  });
}

// total[i] = sum over slices of partials[slice][i]
template <class A>
void add_up(const A* partials, int64_t slices, int64_t size, A* total, int threads) {
  constexpr int64_t kPiece = 1024;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t first = 0; first < size; first += kPiece) {
    const int64_t last = std::min(first + kPiece, size);
    std::fill(total + first, total + last, A{});
    for (int64_t slice = 0; slice < slices; ++slice)
      for (int64_t i = first; i < last; ++i) total[i] += partials[slice * size + i];
  }
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
