// 3x3, 1x7 and 7x1 convolutions by Winograd's minimal filtering: tiles of inputs and weights are
// transformed to points, at each of which a product over channels is all there is to do.
//   y = At ((G w Gt) * (Bt x B)) A,  dL/dw = Gt ((Bt x B) * (A dL/dy At)) G
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../dense_conv.h"
#include "channel_products.h"
#include "element.h"
#include "images.h"
#include "output_gradient.h"
#include "simd.h"
#include "winograd_tiles.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// A tile of a block: its image among those of the block, and its place in the strip.
struct Place {
  int64_t image, y, x;
  Place(int64_t tile, int64_t rows, int64_t across)
      : image(tile / (rows * across)), y(tile / across % rows), x(tile % across) {}
};

// Some strips of as many images.
struct Block {
  int64_t first, images, top, rows;  // rows of tiles
  Block(const WinogradTiling& tiling, const DenseConv& op, int64_t block)
      : first(block / tiling.strips * tiling.together),
        images(std::min(tiling.together, op.images - first)),
        top(block % tiling.strips * tiling.rows),
        rows(std::min(tiling.rows, tiling.down.tiles - top)) {}
  Window window(const WinogradTiling& tiling, int64_t image) const {
    return {first + image, tiling.down.outputs * top - tiling.down.pad(), -tiling.across.pad(),
            tiling.down.inputs(rows), tiling.columns()};
  }
  int64_t tiles(const WinogradTiling& tiling) const { return images * rows * tiling.across.tiles; }
};

// The block's rows of an output or its gradient will be met once the inputs are transformed.
template <class T>
void prefetch(const WinogradTiling& tiling, const Block& block, const Images<T>& images) {
  const int64_t outputs = tiling.down.outputs, top = outputs * block.top;
  const int64_t bottom = std::min(images.height, top + outputs * block.rows);
  for (int64_t i = block.first; i < block.first + block.images; ++i)
    for (const T* at = images.row(i, top); at < images.row(i, bottom); at += 64 / sizeof(T))
      __builtin_prefetch(at);
}

// A thread's part of the scratch.
struct WinogradScratch {
  float *sources, *gradients, *inputs, *sums;
  WinogradScratch(void* scratch, const WinogradTiling& tiling)
      : sources(scratch_of<float>(scratch, tiling.scratch_bytes)),
        gradients(sources + tiling.together * tiling.source_values),
        inputs(gradients + tiling.together * tiling.source_values),
        sums(inputs + tiling.points() * tiling.point_values) {}
};

// Inputs of tiles [first, first + count), [point][tile][channel].
template <class F>
void input_tiles(const WinogradTiling& tiling, const Block& block, const float* sources,
                 int64_t channels, int64_t first, int64_t count, float* to) {
  const int64_t row = tiling.columns() * channels;
  for (int64_t t = 0; t < count; ++t, to += channels) {
    const Place at(first + t, block.rows, tiling.across.tiles);
    const float* from = sources + at.image * tiling.source_values + F::Down::kOutputs * at.y * row +
                        F::Across::kOutputs * at.x * channels;
    // The last vector ends where the channels do, and overlaps the one before.
    for (int64_t c = 0; c < channels; c += kLanes<float>) {
      c = std::min<int64_t>(c, channels - kLanes<float>);
      down_and_across<Vector<float>>(
          typename F::Down::Inputs{}, typename F::Across::Inputs{},
          [&](int y, int x) { return load(from + y * row + x * channels + c); },
          [&](int y, int x, const Vector<float>& value) {
            store(to + (y * F::Across::kPoints + x) * tiling.point_values + c, value);
          });
    }
  }
}

// The products of all points, [point][group of vectors][tile][vector of the group].
inline void multiply(const WinogradTiling& tiling, const Width& width, const float* inputs,
                     int64_t channels, const float* weights, int64_t count, float* sums) {
  const ptrdiff_t panel = channels * kLanes<float>;
  const Extent extent{1, static_cast<int>(channels), 0, channels, 0};
  for (int64_t p = 0; p < tiling.points(); ++p, inputs += tiling.point_values,
               sums += tiling.point_values, weights += width.all() * panel)
    in_groups<float>(width, [&](int first, auto number, auto half) {
      constexpr int kAll = number.value + half.value;
      constexpr int kPixels = std::min(kMostPixels, kMostSums / kAll);
      in_parts<kPixels>(static_cast<int>(count), [&](int t, auto pixels) {
        mix<float, 1, pixels.value, number.value, half.value>(
            inputs + t * channels, weights + first * panel, panel, extent,
            sums + (first * tiling.tiles + t * kAll) * kLanes<float>);
      });
    });
}

// What the sums of tiles [first, first + count) mean for the result; `mask` as in `put`.
template <class F, class T>
void output_tiles(const WinogradTiling& tiling, const Block& block, const Width& width,
                  const float* sums, int64_t first_tile, int64_t count, const Images<T>& result,
                  const T* mask) {
  in_groups<float>(width, [&](int first, auto number, auto half) {
    constexpr int kVectors = number.value, kAll = kVectors + half.value;
    const float* from = sums + first * tiling.tiles * kLanes<float>;
    for (int64_t t = 0; t < count; ++t) {
      const Place at(first_tile + t, block.rows, tiling.across.tiles);
      const int64_t top = F::Down::kOutputs * (block.top + at.y);
      const int64_t left = F::Across::kOutputs * at.x;
      const int64_t rows = result.height - top, columns = result.width - left;
      T* const corner = result.row(block.first + at.image, top) + left * result.channels;
      for (int v = 0; v < kAll; ++v, from += kLanes<float>) {
        const int64_t channel = (first + v) * kLanes<float>;
        const int lanes =
            static_cast<int>(std::min<int64_t>(kLanes<float>, result.channels - channel));
        down_and_across<Vector<float>>(
            typename F::Down::Outputs{}, typename F::Across::Outputs{},
            [&](int y, int x) {
              return load(from + (y * F::Across::kPoints + x) * tiling.point_values);
            },
            [&](int y, int x, const Vector<float>& value) {
              if (y >= rows || x >= columns) return;
              T* to = corner + (y * result.width + x) * result.channels + channel;
              put(half.value && v == kVectors ? gathered(value) : value, to,
                  mask ? mask + (to - result.data) : nullptr, lanes);
            });
      }
    }
  });
}

// Weights at the points, [point][vector][channel of the source][lane]; backward, transposed and
// turned. All threads of a parallel region together.
template <class F>
void winograd_pack(const DenseConv& op, const DenseWeights& weights, bool backward, float* packed) {
  const float* from = static_cast<const float*>(weights.data);
  const int64_t sources = backward ? op.out_channels : op.in_channels;
  const int64_t results = backward ? op.in_channels : op.out_channels;
  const int64_t of_source = backward ? weights.over : weights.across;
  const int64_t of_result = backward ? weights.across : weights.over;
  const Width width = Width::of<float>(results, sources);
  const int64_t point = width.all() * sources * kLanes<float>;
  int64_t places[F::kTaps],
      steps[2][kLanes<float>];  // the latter of whole vectors and of half ones
  for (int64_t lane = 0; lane < kLanes<float>; ++lane) {
    steps[0][lane] = lane * of_result;
    steps[1][lane] = lane / 2 * of_result + lane % 2 * of_source;
  }
  for (int tap = 0; tap < F::kTaps; ++tap)
    places[tap] = tap / F::Across::kTaps * weights.down + tap % F::Across::kTaps * weights.along;
#pragma omp for schedule(static) collapse(2)
  for (int64_t v = 0; v < width.all(); ++v)
    for (int64_t c = 0; c < sources; ++c) {
      const bool half = v == width.vectors;
      if (half && c % 2) continue;  // the even one has it
      const int64_t first = v * kLanes<float>;
      const int lanes =
          static_cast<int>(std::min<int64_t>(kLanes<float>, (results - first) << half));
      const float* at = from + c * of_source + first * of_result;
      Vector<float> w[F::kTaps];
      for (int tap = 0; tap < F::kTaps; ++tap)
        w[backward ? F::kTaps - 1 - tap : tap] = gather(at + places[tap], steps[half], lanes);
      float* to = packed + (v * sources + c) * kLanes<float>;
      down_and_across<Vector<float>>(
          typename F::Down::Weights{}, typename F::Across::Weights{},
          [&](int y, int x) { return w[F::Across::kTaps * y + x]; },
          [&](int y, int x, const Vector<float>& value) {
            store(to + (y * F::Across::kPoints + x) * point, value);
          });
    }
}

// The results of a block whose sources are filled; `mask` as in `put`.
template <class F, class T>
void winograd_results(const WinogradTiling& tiling, const Block& block, const WinogradScratch& own,
                      const float* sources, int64_t channels, const void* packed,
                      const Images<T>& results, const T* mask) {
  const Width width = Width::of<float>(results.channels, channels);
  prefetch(tiling, block, results);
  if (mask)
    prefetch(tiling, block, Images<const T>{mask, results.height, results.width, results.channels});
  const int64_t tiles = block.tiles(tiling);
  for (int64_t first = 0; first < tiles; first += tiling.tiles) {
    const int64_t count = std::min(tiling.tiles, tiles - first);
    input_tiles<F>(tiling, block, sources, channels, first, count, own.inputs);
    multiply(tiling, width, own.inputs, channels, static_cast<const float*>(packed), count,
             own.sums);
    output_tiles<F>(tiling, block, width, own.sums, first, count, results, mask);
  }
}

// Gradients of the outputs of tiles [first, first + count), [point][tile][vector].
template <class F>
void gradient_tiles(const WinogradTiling& tiling, const Block& block, const Width& width,
                    const float* gradients, int64_t channels, int64_t first, int64_t count,
                    float* to) {
  const int64_t row = tiling.columns() * channels;
  for (int64_t t = 0; t < count; ++t) {
    const Place at(first + t, block.rows, tiling.across.tiles);
    const float* corner = gradients + at.image * tiling.source_values +
                          (F::Down::kOutputs * at.y + F::Down::kTaps / 2) * row +
                          (F::Across::kOutputs * at.x + F::Across::kTaps / 2) * channels;
    for (int v = 0; v < width.all(); ++v, to += kLanes<float>) {
      const int64_t c = v * kLanes<float>;
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes<float>, channels - c));
      down_and_across<Vector<float>>(
          typename F::Down::OutputGradients{}, typename F::Across::OutputGradients{},
          [&](int y, int x) {
            const Vector<float> g = load(corner + y * row + x * channels + c, lanes);
            return v == width.vectors ? spread(g) : g;
          },
          [&](int y, int x, const Vector<float>& value) {
            store(to + (y * F::Across::kPoints + x) * tiling.point_values, value);
          });
    }
  }
}

// What a block whose sources and gradients are filled adds to sums [point][in channel][vector],
// where there are `more`.
template <class F>
void winograd_sums(const DenseConv& op, const WinogradTiling& tiling, const Block& block,
                   const WinogradScratch& own, bool more, float* sums) {
  const Width width = Width::of<float>(op.out_channels, op.in_channels);
  const ptrdiff_t pitch = width.all() * kLanes<float>;
  const Extent extent{1, static_cast<int>(op.in_channels), 0, op.in_channels, 0};
  const int64_t tiles = block.tiles(tiling);
  for (int64_t first = 0; first < tiles; first += tiling.tiles, more = true) {
    const int64_t count = std::min(tiling.tiles, tiles - first);
    input_tiles<F>(tiling, block, own.sources, op.in_channels, first, count, own.inputs);
    gradient_tiles<F>(tiling, block, width, own.gradients, op.out_channels, first, count, own.sums);
    for (int64_t p = 0; p < tiling.points(); ++p)
      in_groups<float>(width, [&](int vector, auto number, auto half) {
        constexpr int kVectors = number.value;
        constexpr int kTaps = std::min(kMostTaps, 2 * kMostSums / (2 * kVectors + half.value));
        const Gradients<float> of{own.sums + p * tiling.point_values + vector * kLanes<float>,
                                  1,
                                  1,
                                  static_cast<int>(count),
                                  pitch,
                                  0};
        in_parts<kTaps>(extent.run, [&](int c, auto taps) {
          if constexpr (!half.value || taps.value % 2 == 0)
            correlate<float, taps.value, kVectors, half.value>(
                own.inputs + p * tiling.point_values + c, extent, 0, of, more,
                sums + (p * op.in_channels + c) * pitch + vector * kLanes<float>);
        });
      });
  }
}

// The gradient of x of one block, if that is wanted of it, and what the block adds to the sums of
// its slice, if there are any.
template <class F, class T>
void winograd_block(const DenseConvBackward& args, const WinogradTiling& tiling, int64_t index,
                    bool of_x, bool more, float* sums) {
  const DenseConv& op = args.op;
  const Block block(tiling, op, index);
  const WinogradScratch own(args.scratch, tiling);
  const OutputGradient<T> grad(args);
  const T* x = static_cast<const T*>(args.x);
  for (int64_t i = 0; i < block.images; ++i)
    grad.fill(block.window(tiling, i), own.gradients + i * tiling.source_values);
  if (of_x)
    winograd_results<F>(
        tiling, block, own, own.gradients, op.out_channels, args.packed,
        Images<T>{static_cast<T*>(args.grad_x), op.height, op.width, op.in_channels},
        op.relu ? x : nullptr);
  if (!sums) return;
  for (int64_t i = 0; i < block.images; ++i)
    fill(Images<const T>{x, op.height, op.width, op.in_channels}, block.window(tiling, i), op.relu,
         own.sources + i * tiling.source_values);
  winograd_sums<F>(op, tiling, block, own, more, sums);
}

// Sums of all slices, in their order, as gradients of the weights.
template <class F>
void winograd_add(const DenseConvBackward& args, const WinogradTiling& tiling) {
  const DenseConv& op = args.op;
  const Width width = Width::of<float>(op.out_channels, op.in_channels);
  const ptrdiff_t pitch = width.all() * kLanes<float>;
  const DenseWeights& of = args.grad_weights;
  constexpr int kAhead = 2 * kLanes<float>;  // the next vectors of all points, which lie far apart
#pragma omp for schedule(static) collapse(2)
  for (int64_t c = 0; c < op.in_channels; ++c)
    for (int v = 0; v < width.all(); ++v) {
      const bool half = v == width.vectors;
      const int64_t first = v * kLanes<float>;
      float sums[F::kTaps][kLanes<float>];
      for (int part = 0; part < kLanes<float>; part += kLanes<double>) {
        const float* from = static_cast<const float*>(args.partials) +
                            (half ? c / 2 * 2 : c) * pitch + first + part;
        down_and_across<Vector<double>>(
            typename F::Down::WeightGradients{}, typename F::Across::WeightGradients{},
            [&](int y, int x) {
              const float* at = from + (y * F::Across::kPoints + x) * op.in_channels * pitch;
              Vector<double> sum = {};
              for (int64_t slice = 0; slice < tiling.slices; ++slice, at += tiling.partial_values) {
                __builtin_prefetch(at + kAhead);
                sum += load_wide(at);
              }
              return sum;
            },
            [&](int y, int x, const Vector<double>& value) {
              store_narrow(sums[F::Across::kTaps * y + x] + part, value);
            });
      }
      for (int64_t i = 0; i < std::min<int64_t>(kLanes<float>, op.out_channels - first); ++i) {
        const int64_t lane = half ? 2 * i + c % 2 : i;
        float* to = static_cast<float*>(of.data) + (first + i) * of.over + c * of.across;
        for (int tap = 0; tap < F::kTaps; ++tap)
          to[tap / F::Across::kTaps * of.down + tap % F::Across::kTaps * of.along] =
              sums[tap][lane];
      }
    }
}

// Calls body with the tile that these are.
template <class Body>
void with_tile(const WinogradTiling& tiling, const Body& body) {
  using One = Filtering<1, 1>;
  using Seven = Filtering<4, 7>;
  if (tiling.down.taps == 1) return body(Tile<One, Seven>{});
  if (tiling.across.taps == 1) return body(Tile<Seven, One>{});
  if (tiling.down.outputs == 4) return body(Tile<Filtering<4, 3>, Filtering<4, 3>>{});
  body(Tile<Filtering<2, 3>, Filtering<2, 3>>{});
}

template <class T>
void winograd_forward(const DenseConvForward& args, int threads) {
  const DenseConv& op = args.op;
  const WinogradTiling tiling(op);
  const Images<const T> x{static_cast<const T*>(args.x), op.height, op.width, op.in_channels};
  const Images<T> y{static_cast<T*>(args.y), op.height, op.width, op.out_channels};
  with_tile(tiling, [&](auto tile) {
    using F = decltype(tile);
#pragma omp parallel num_threads(threads)
    {
      winograd_pack<F>(op, args.weights, false, static_cast<float*>(args.packed));
#pragma omp for schedule(static)
      for (int64_t index = 0; index < tiling.blocks; ++index) {
        const Block block(tiling, op, index);
        const WinogradScratch own(args.scratch, tiling);
        for (int64_t i = 0; i < block.images; ++i)
          fill(x, block.window(tiling, i), op.relu, own.sources + i * tiling.source_values);
        winograd_results<F, T>(tiling, block, own, own.sources, op.in_channels, args.packed, y,
                               nullptr);
      }
    }
  });
}

template <class T>
void winograd_backward(const DenseConvBackward& args, int threads) {
  const WinogradTiling tiling(args.op);
  const bool of_x = args.grad_x, of_weights = args.grad_weights.data;
  // Both gradients of a block at once, where slices are enough for the threads.
  const bool at_once = of_x && of_weights && tiling.slices >= threads && tiling.light;
  with_tile(tiling, [&](auto tile) {
    using F = decltype(tile);
#pragma omp parallel num_threads(threads)
    {
      if (of_x) winograd_pack<F>(args.op, args.weights, true, static_cast<float*>(args.packed));
      if (of_x && !at_once) {
#pragma omp for schedule(static)
        for (int64_t index = 0; index < tiling.blocks; ++index)
          winograd_block<F, T>(args, tiling, index, true, false, nullptr);
      }
      if (of_weights) {
#pragma omp for schedule(static)
        for (int64_t slice = 0; slice < tiling.slices; ++slice) {
          const int64_t begin = slice * tiling.blocks / tiling.slices;
          const int64_t end = (slice + 1) * tiling.blocks / tiling.slices;
          float* sums = static_cast<float*>(args.partials) + slice * tiling.partial_values;
          for (int64_t index = begin; index < end; ++index)
            winograd_block<F, T>(args, tiling, index, at_once, index > begin, sums);
        }
        winograd_add<F>(args, tiling);
      }
    }
  });
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
