// Dense convolutions on the CPU: registers hold sums of some pixels and some vectors of output
// channels while taps and input channels go by. In channels_last memory the taps of a row and
// their channels lie in one run, so that both are one loop.
#include "../dense_conv.h"

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "channel_products.h"
#include "element.h"
#include "images.h"
#include "output_gradient.h"
#include "winograd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// A strip lies here: rows [top, top + rows) of an image's output.
struct Strip {
  int64_t image, top;
  int rows;
  Strip(const DenseTiling& tiling, int64_t unit, int64_t height)
      : image(unit / tiling.strips),
        top(unit % tiling.strips * tiling.rows),
        rows(static_cast<int>(std::min(tiling.rows, height - top))) {}

  // What it meets.
  Window window(const DenseConv& op) const {
    return {image, top * op.stride_down - op.down / 2, -(op.across / 2), op.rows_for(rows),
            op.columns()};
  }
};

Extent extent_of(const DenseConv& op, int64_t channels) {
  const int64_t row = op.columns() * channels;
  return {static_cast<int>(op.down), static_cast<int>(op.across * channels), row,
          op.stride_across * channels, op.stride_down * row};
}

// Weights as panels [vector][row][column][channel of the source][lane]; backward, transposed and
// turned. All threads of a parallel region together.
template <class A>
void pack(const DenseConv& op, const DenseWeights& weights, bool backward, A* packed) {
  const A* from = static_cast<const A*>(weights.data);
  const int64_t sources = backward ? op.out_channels : op.in_channels;
  const int64_t results = backward ? op.in_channels : op.out_channels;
  const int64_t of_source = backward ? weights.over : weights.across;
  const int64_t of_result = backward ? weights.across : weights.over;
  const int64_t taps = op.taps();
  const Width width = Width::of<A>(results, op.across * sources);
#pragma omp for schedule(static) collapse(2)
  for (int64_t v = 0; v < width.all(); ++v)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t place = backward ? taps - 1 - tap : tap;
      const int64_t first = v * kLanes<A>;
      const int64_t lanes = std::min<int64_t>(kLanes<A>, results - first);
      const A* at = from + place / op.across * weights.down + place % op.across * weights.along +
                    first * of_result;
      A* to = packed + (v * taps + tap) * sources * kLanes<A>;
      std::fill_n(to, sources * kLanes<A>, A{});
      const bool half = v == width.vectors;
      for (int64_t c = 0; c < sources; ++c)
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const int64_t place_of =
              half ? c / 2 * 2 * kLanes<A> + 2 * lane + c % 2 : c * kLanes<A> + lane;
          to[place_of] = at[c * of_source + lane * of_result];
        }
    }
}

// A strip of one direction. `mask` as in `put`.
template <class T, class A = typename Element<T>::Acc>
void convolve(const Strip& strip, const Extent& extent, const A* source, const A* weights,
              const Images<T>& result, const T* mask) {
  const ptrdiff_t panel = ptrdiff_t{1} * extent.rows * extent.run * kLanes<A>;
  in_groups<A>(Width::of<A>(result.channels, extent.run), [&](int first, auto number, auto half) {
    constexpr int kVectors = number.value, kAll = kVectors + half.value;
    constexpr int kPixels = std::min(kMostPixels, kMostSums / kAll);
    const auto block = [&](int y, int x, auto rows, auto pixels) {
      alignas(64) A sums[kMostSums * kLanes<A>];
      mix<A, rows.value, pixels.value, kVectors, half.value>(
          source + y * extent.down + x * extent.pixel, weights + first * panel, panel, extent,
          sums);
      for (int r = 0; r < rows.value; ++r) {
        T* to = result.row(strip.image, strip.top + y + r) + x * result.channels;
        put_pixels<T, kVectors, half.value>(
            sums + r * pixels.value * kAll * kLanes<A>, pixels.value, to,
            mask ? mask + (to - result.data) : nullptr, first * kLanes<A>, result.channels);
      }
    };
    in_parts<kPixels>(static_cast<int>(result.width), [&](int x, auto pixels) {
      int y = 0;
      // Two rows of few pixels are as many independent sums as one of many.
      if constexpr (2 * pixels.value <= kPixels)
        for (; y + 2 <= strip.rows; y += 2) block(y, x, Constant<2>{}, pixels);
      for (; y < strip.rows; ++y) block(y, x, Constant<1>{}, pixels);
    });
  });
}

// All strips of one direction, whose windows are filled by fill_window(window, to); all threads of
// a parallel region together. `stride` is 1 backward.
template <class T, class FillWindow>
void run_direction(const DenseConv& op, const DenseTiling& tiling, bool backward,
                   const FillWindow& fill_window, const DenseWeights& weights, void* packed,
                   void* result, const void* mask, void* scratch) {
  using A = typename Element<T>::Acc;
  const int64_t from = backward ? op.out_channels : op.in_channels;
  const int64_t to = backward ? op.in_channels : op.out_channels;
  const int64_t height = op.out_height(), width = op.out_width();
  const Images<T> results{static_cast<T*>(result), height, width, to};
  const Extent extent = extent_of(op, from);
  pack(op, weights, backward, static_cast<A*>(packed));
#pragma omp for schedule(static)
  for (int64_t unit = 0; unit < tiling.units; ++unit) {
    const Strip strip(tiling, unit, height);
    A* tile = scratch_of<A>(scratch, tiling.scratch_bytes);
    fill_window(strip.window(op), tile);
    convolve(strip, extent, tile, static_cast<const A*>(packed), results,
             static_cast<const T*>(mask));
  }
}

// The gradients of a strip's outputs, `pitch` values a pixel: whole vectors, and what is left of
// the channels in one that is padded, or spread.
template <class T, class A = typename Element<T>::Acc>
void fill_gradients(const OutputGradient<T>& grad, const Strip& strip, const Width& width,
                    ptrdiff_t pitch, A* to) {
  const int64_t whole = int64_t{width.vectors} * kLanes<A>;
  grad.rows(strip.image, strip.top, strip.top + strip.rows,
            [&](int64_t y, int64_t x, int64_t first, auto, Vector<A> value) {
              A* at = to + ((y - strip.top) * grad.width() + x) * pitch + first;
              if constexpr (kHalves<A>)
                if (first == whole) value = spread(value);
              store(at, value);
            });
}

// One slice of the strips, to sums [row][column][in channel][out channel].
template <class T>
void weight_gradient(const DenseConvBackward& args, const DenseTiling& tiling, int64_t slice) {
  using A = typename Element<T>::Acc;
  const DenseConv& op = args.op;
  const int64_t columns = op.out_width(), run = op.across * op.in_channels;
  const Width width = Width::of<A>(op.out_channels, run);
  const ptrdiff_t pitch = width.all() * kLanes<A>;
  const Images<const T> x{static_cast<const T*>(args.x), op.height, op.width, op.in_channels};
  const OutputGradient<T> grad(args);
  A* source = scratch_of<A>(args.scratch, tiling.scratch_bytes);
  A* gradients = source + tiling.together * tiling.source_values;
  A* sums = static_cast<A*>(args.partials) + slice * tiling.partial_values;
  const Extent extent = extent_of(op, op.in_channels);
  bool more = false;
  for (int64_t tile = slice * tiling.tiles / tiling.slices;
       tile < (slice + 1) * tiling.tiles / tiling.slices; ++tile) {
    const int64_t first = tile / tiling.strips * tiling.together;
    const int images = static_cast<int>(std::min(tiling.together, op.images - first));
    Strip strip(tiling, first * tiling.strips + tile % tiling.strips, op.out_height());
    for (int i = 0; i < images; ++i, ++strip.image) {
      fill(x, strip.window(op), op.relu, source + i * tiling.source_values);
      fill_gradients(grad, strip, width, pitch, gradients + i * tiling.gradient_values);
    }
    in_groups<A>(width, [&](int vector, auto number, auto half) {
      constexpr int kVectors = number.value;
      constexpr int kTaps = std::min(kMostTaps, 2 * kMostSums / (2 * kVectors + half.value));
      const Gradients<A> of{gradients + vector * kLanes<A>, images, strip.rows,
                            static_cast<int>(columns),      pitch,  tiling.gradient_values};
      for (int64_t row = 0; row < op.down; ++row)
        in_parts<kTaps>(static_cast<int>(run), [&](int k, auto count) {
          if constexpr (!half.value || count.value % 2 == 0)
            correlate<A, count.value, kVectors, half.value>(
                source + row * extent.row + k, extent, tiling.source_values, of, more,
                sums + (row * run + k) * pitch + vector * kLanes<A>);
        });
    });
    more = true;
  }
}

// Sums of all slices, in their order.
template <class A>
void add_slices(const DenseConvBackward& args, const DenseTiling& tiling) {
  const DenseConv& op = args.op;
  const Width width = Width::of<A>(op.out_channels, op.across * op.in_channels);
  const ptrdiff_t pitch = width.all() * kLanes<A>;
  const DenseWeights& of = args.grad_weights;
#pragma omp for schedule(static)
  for (int64_t row = 0; row < op.taps() * op.in_channels; ++row) {
    const int64_t channel = row % op.in_channels, tap = row / op.in_channels;
    A* to = static_cast<A*>(of.data) + channel * of.across + tap / op.across * of.down +
            tap % op.across * of.along;
    for (int v = 0; v < width.all(); ++v) {
      const bool half = v == width.vectors;
      const A* from =
          static_cast<const A*>(args.partials) + (half ? row / 2 * 2 : row) * pitch + v * kLanes<A>;
      double sum[kLanes<A>] = {};
      for (int64_t slice = 0; slice < tiling.slices; ++slice, from += tiling.partial_values)
        for (int lane = 0; lane < kLanes<A>; ++lane) sum[lane] += from[lane];
      const int64_t first = v * kLanes<A>;
      for (int64_t i = 0; i < std::min<int64_t>(kLanes<A>, op.out_channels - first); ++i)
        to[(first + i) * of.over] = static_cast<A>(sum[half ? 2 * i + row % 2 : i]);
    }
  }
}

template <class T>
void forward(const DenseConvForward& args, int threads) {
  if constexpr (std::is_same_v<typename Element<T>::Acc, float>)
    if (WinogradTiling::fits(args.op)) return winograd_forward<T>(args, threads);
  const DenseConv& op = args.op;
  const DenseTiling tiling(op);
  const Images<const T> x{static_cast<const T*>(args.x), op.height, op.width, op.in_channels};
  const auto fill_window = [&](const Window& window, auto* to) { fill(x, window, op.relu, to); };
#pragma omp parallel num_threads(threads)
  run_direction<T>(op, tiling, false, fill_window, args.weights, args.packed, args.y, nullptr,
                   args.scratch);
}

template <class T>
void backward(const DenseConvBackward& args, int threads) {
  if constexpr (std::is_same_v<typename Element<T>::Acc, float>)
    if (WinogradTiling::fits(args.op)) return winograd_backward<T>(args, threads);
  const DenseTiling tiling(args.op);
  const OutputGradient<T> grad(args);
  const auto fill_window = [&](const Window& window, auto* to) { grad.fill(window, to); };
#pragma omp parallel num_threads(threads)
  {
    if (args.grad_x)
      run_direction<T>(args.op, tiling, true, fill_window, args.weights, args.packed, args.grad_x,
                       args.op.relu ? args.x : nullptr, args.scratch);
    if (args.grad_weights.data) {
#pragma omp for schedule(static)
      for (int64_t slice = 0; slice < tiling.slices; ++slice)
        weight_gradient<T>(args, tiling, slice);
      add_slices<typename Element<T>::Acc>(args, tiling);
    }
  }
}

}  // namespace

void dense_conv_forward(const DenseConvForward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void dense_conv_backward(const DenseConvBackward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
