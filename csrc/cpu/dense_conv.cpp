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

// What of the results is computed together along an axis: all of them forward and, backward, every
// so many inputs, which meet the same taps.
struct Phase {
  int64_t first, step, count;  // results
  int64_t offset;              // in the window, of what the first result meets
  int64_t tap, turn, taps;     // that meets `tap`, what follows it `tap + turn` and so on
};

// An axis of one direction. Counts are those of the outputs, or of the inputs of one phase.
struct Axis {
  int64_t kernel, stride, results;
  bool backward;

  int64_t pad() const { return kernel / 2; }
  int64_t phases() const { return backward ? stride : 1; }
  Phase phase(int64_t number) const {
    if (!backward) return {0, 1, results, 0, 0, 1, kernel};
    const int64_t least = (number + pad()) % stride;
    const int64_t taps = (kernel - least + stride - 1) / stride;
    const int64_t count = (results - number + stride - 1) / stride;
    const int64_t offset = (number + pad()) / stride - (taps - 1) + before();
    return {number, stride, count, offset, least + (taps - 1) * stride, -stride, taps};
  }
  // The window of a source begins so far before the place of its first result.
  int64_t before() const { return backward ? pad() / stride : pad(); }
  int64_t window(int64_t count) const {
    if (!backward) return (count - 1) * stride + kernel;
    return before() + count + (pad() + stride - 1) / stride;
  }
  int64_t place(int64_t result) const { return backward ? result : result * stride; }
};

// A strip lies here: rows [top, top + rows) of an image's outputs, or of a phase of its inputs.
struct Strip {
  int64_t image, top;
  int rows;
  Strip(const DenseTiling& tiling, int64_t unit, int64_t height)
      : image(unit / tiling.strips),
        top(unit % tiling.strips * tiling.rows),
        rows(static_cast<int>(std::min(tiling.rows, height - top))) {}
};

struct Direction {
  int64_t from, to;  // channels of the source and of the results
  int64_t width;     // of a strip
  Axis down, across;

  Direction(const DenseConv& op, bool backward)
      : from(backward ? op.out_channels : op.in_channels),
        to(backward ? op.in_channels : op.out_channels),
        width(op.out_width()),
        down{op.down, op.stride_down, backward ? op.height : op.out_height(), backward},
        across{op.across, op.stride_across, backward ? op.width : op.out_width(), backward} {}

  // What of the source a strip meets.
  Window window(const Strip& strip) const {
    return {strip.image, down.place(strip.top) - down.before(), -across.before(),
            down.window(strip.rows), across.window(width)};
  }
  // What of that a result of these phases does.
  Extent extent(const Phase& rows, const Phase& columns) const {
    const int64_t row = across.window(width) * from;
    return {static_cast<int>(rows.taps), static_cast<int>(columns.taps * from), row,
            across.place(1) * from, down.place(1) * row};
  }

  // Calls body(rows, columns, taps before) for all phases.
  template <class Body>
  void phases(const Body& body) const {
    int64_t taps = 0;
    for (int64_t y = 0; y < down.phases(); ++y)
      for (int64_t x = 0; x < across.phases(); ++x) {
        const Phase rows = down.phase(y), columns = across.phase(x);
        body(rows, columns, taps);
        taps += rows.taps * columns.taps;
      }
  }
};

// Weights of phases as panels [vector][row][column][channel of the source][lane]. The threads of a
// parallel region share them out, and do not wait.
template <class A>
void pack(const Direction& direction, const DenseWeights& weights, const Phase& rows,
          const Phase& columns, A* packed) {
  const A* from = static_cast<const A*>(weights.data);
  const bool backward = direction.down.backward;
  const int64_t of_source = backward ? weights.over : weights.across;
  const int64_t of_result = backward ? weights.across : weights.over;
  const int64_t taps = rows.taps * columns.taps, sources = direction.from;
  const Width width = Width::of<A>(direction.to, columns.taps * sources);
#pragma omp for schedule(static) collapse(2) nowait
  for (int64_t v = 0; v < width.all(); ++v)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t row = rows.tap + tap / columns.taps * rows.turn;
      const int64_t column = columns.tap + tap % columns.taps * columns.turn;
      const int64_t first = v * kLanes<A>;
      const int64_t lanes = std::min<int64_t>(kLanes<A>, direction.to - first);
      const A* at = from + row * weights.down + column * weights.along + first * of_result;
      A* to = packed + v * taps * sources * kLanes<A>;
      const bool half = v == width.vectors;
      for (int64_t c = 0; c < sources; ++c) {
        const int64_t k = tap * sources + c;  // pairs of which may be of two taps
        for (int64_t lane = 0; lane < (half ? kLanes<A> / 2 : kLanes<A>); ++lane)
          to[half ? k / 2 * 2 * kLanes<A> + 2 * lane + k % 2 : k * kLanes<A> + lane] =
              lane < lanes ? at[c * of_source + lane * of_result] : A{};
      }
    }
}

// A strip of phases of one direction. `mask` as in `put`.
template <class T, class A = typename Element<T>::Acc>
void convolve(const Strip& strip, const Phase& rows, const Phase& columns, const Extent& extent,
              const A* source, const A* weights, const Images<T>& result, const T* mask) {
  const ptrdiff_t panel = ptrdiff_t{1} * extent.rows * extent.run * kLanes<A>;
  const int64_t step = columns.step * result.channels;
  const int height = static_cast<int>(std::min<int64_t>(strip.rows, rows.count - strip.top));
  in_groups<A>(Width::of<A>(result.channels, extent.run), [&](int first, auto number, auto half) {
    constexpr int kVectors = number.value, kAll = kVectors + half.value;
    constexpr int kPixels = std::min(kMostPixels, kMostSums / kAll);
    const auto block = [&](int y, int x, auto lines, auto pixels) {
      alignas(64) A sums[kMostSums * kLanes<A>];
      mix<A, lines.value, pixels.value, kVectors, half.value>(
          source + y * extent.down + x * extent.pixel, weights + first * panel, panel, extent,
          sums);
      for (int r = 0; r < lines.value; ++r) {
        T* to = result.row(strip.image, rows.first + (strip.top + y + r) * rows.step) +
                columns.first * result.channels + x * step;
        put_pixels<T, kVectors, half.value>(
            sums + r * pixels.value * kAll * kLanes<A>, pixels.value, step, to,
            mask ? mask + (to - result.data) : nullptr, first * kLanes<A>, result.channels);
      }
    };
    in_parts<kPixels>(static_cast<int>(columns.count), [&](int x, auto pixels) {
      int y = 0;
      // Two rows of few pixels are as many independent sums as one of many.
      if constexpr (2 * pixels.value <= kPixels)
        for (; y + 2 <= height; y += 2) block(y, x, Constant<2>{}, pixels);
      for (; y < height; ++y) block(y, x, Constant<1>{}, pixels);
    });
  });
}

// All strips of one direction, whose windows are filled by fill_window(window, to); all threads of
// a parallel region together.
template <class T, class FillWindow>
void run_direction(const DenseConv& op, const DenseTiling& tiling, bool backward,
                   const FillWindow& fill_window, const DenseWeights& weights, void* packed,
                   void* result, const void* mask, void* scratch) {
  using A = typename Element<T>::Acc;
  const Direction direction(op, backward);
  const Images<T> results{static_cast<T*>(result), direction.down.results, direction.across.results,
                          direction.to};
  A* const panels = static_cast<A*>(packed);
  const int64_t of_tap = direction.from * Width::of<A>(direction.to, 0).all() * kLanes<A>;
  direction.phases([&](const Phase& rows, const Phase& columns, int64_t taps) {
    pack(direction, weights, rows, columns, panels + taps * of_tap);
  });
#pragma omp barrier
#pragma omp for schedule(static)
  for (int64_t unit = 0; unit < tiling.units; ++unit) {
    const Strip strip(tiling, unit, op.out_height());
    A* tile = scratch_of<A>(scratch, tiling.scratch_bytes);
    fill_window(direction.window(strip), tile);
    direction.phases([&](const Phase& rows, const Phase& columns, int64_t taps) {
      const Extent extent = direction.extent(rows, columns);
      convolve(strip, rows, columns, extent,
               tile + rows.offset * extent.row + columns.offset * direction.from,
               panels + taps * of_tap, results, static_cast<const T*>(mask));
    });
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
  const Direction direction(op, false);
  const Extent extent = direction.extent(direction.down.phase(0), direction.across.phase(0));
  const int run = extent.run;
  const Width width = Width::of<A>(op.out_channels, run);
  const ptrdiff_t pitch = width.all() * kLanes<A>;
  const Images<const T> x{static_cast<const T*>(args.x), op.height, op.width, op.in_channels};
  const OutputGradient<T> grad(args);
  A* source = scratch_of<A>(args.scratch, tiling.scratch_bytes);
  A* gradients = source + tiling.together * tiling.source_values;
  A* sums = static_cast<A*>(args.partials) + slice * tiling.partial_values;
  bool more = false;
  for (int64_t tile = slice * tiling.tiles / tiling.slices;
       tile < (slice + 1) * tiling.tiles / tiling.slices; ++tile) {
    const int64_t first = tile / tiling.strips * tiling.together;
    const int images = static_cast<int>(std::min(tiling.together, op.images - first));
    Strip strip(tiling, first * tiling.strips + tile % tiling.strips, op.out_height());
    for (int i = 0; i < images; ++i, ++strip.image) {
      fill(x, direction.window(strip), op.relu, source + i * tiling.source_values);
      fill_gradients(grad, strip, width, pitch, gradients + i * tiling.gradient_values);
    }
    in_groups<A>(width, [&](int vector, auto number, auto half) {
      constexpr int kVectors = number.value;
      constexpr int kTaps = std::min(kMostTaps, 2 * kMostSums / (2 * kVectors + half.value));
      const Gradients<A> of{gradients + vector * kLanes<A>,   images, strip.rows,
                            static_cast<int>(op.out_width()), pitch,  tiling.gradient_values};
      for (int64_t row = 0; row < op.down; ++row)
        in_parts<kTaps>(run, [&](int k, auto count) {
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
