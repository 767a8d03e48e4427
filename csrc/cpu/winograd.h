// 3x3 convolutions by Winograd's minimal filtering: tiles of inputs and weights are transformed to
// 16 points, at each of which a product over channels is all there is to do.
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
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

constexpr int kPoints = WinogradTiling::kPoints;

// Bt d, where d are every `step`-th of the vectors.
template <class V>
inline void transform_input(V* d, int step) {
  const V d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
  d[0] = d0 - d2, d[step] = d1 + d2, d[2 * step] = d2 - d1, d[3 * step] = d1 - d3;
}

// G w, of three to four.
template <class V, class W>
inline void transform_weights(const W& w0, const W& w1, const W& w2, V* to, int step) {
  const V even = (w0 + w2) * 0.5f, odd = w1 * 0.5f;
  to[0] = w0, to[step] = even + odd, to[2 * step] = even - odd, to[3 * step] = w2;
}

// A g, of two to four.
template <class V>
inline void transform_gradients(const V& g0, const V& g1, V* to, int step) {
  to[0] = g0, to[step] = g0 + g1, to[2 * step] = g0 - g1, to[3 * step] = -g1;
}

// At m, of four to two.
template <class V>
inline void transform_sums(const V* m, int step, V* to) {
  to[0] = m[0] + m[step] + m[2 * step];
  to[1] = m[step] - m[2 * step] - m[3 * step];
}

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
        rows(std::min(tiling.rows, DenseRoom::ceil_div(op.height, 2) - top)) {}
  Window window(const WinogradTiling& tiling, int64_t image) const {
    return {first + image, 2 * top - 1, -1, 2 * rows + 2, 2 * tiling.across + 2};
  }
  int64_t tiles(const WinogradTiling& tiling) const { return images * rows * tiling.across; }
};

// A thread's part of the scratch.
struct WinogradScratch {
  float *sources, *inputs, *sums;
  WinogradScratch(void* scratch, const WinogradTiling& tiling)
      : sources(scratch_of<float>(scratch, tiling.scratch_bytes)),
        inputs(sources + tiling.together * tiling.source_values),
        sums(inputs + kPoints * tiling.point_values) {}
};

// Inputs of tiles [first, first + count), [point][tile][channel].
inline void input_tiles(const WinogradTiling& tiling, const Block& block, const float* sources,
                        int64_t channels, int64_t first, int64_t count, float* to) {
  const int64_t row = (2 * tiling.across + 2) * channels;
  for (int64_t t = 0; t < count; ++t, to += channels) {
    const Place at(first + t, block.rows, tiling.across);
    const float* from =
        sources + at.image * tiling.source_values + 2 * at.y * row + 2 * at.x * channels;
    // The last vector ends where the channels do, and overlaps the one before.
    for (int64_t c = 0; c < channels; c += kLanes<float>) {
      c = std::min<int64_t>(c, channels - kLanes<float>);
      Vector<float> d[kPoints];
#pragma GCC unroll 4
      for (int y = 0; y < 4; ++y)
#pragma GCC unroll 4
        for (int x = 0; x < 4; ++x) d[4 * y + x] = load(from + y * row + x * channels + c);
#pragma GCC unroll 4
      for (int x = 0; x < 4; ++x) transform_input(d + x, 4);
#pragma GCC unroll 4
      for (int y = 0; y < 4; ++y) transform_input(d + 4 * y, 1);
#pragma GCC unroll 16
      for (int p = 0; p < kPoints; ++p) store(to + p * tiling.point_values + c, d[p]);
    }
  }
}

// The products of all points, [point][group of vectors][tile][vector of the group].
inline void multiply(const WinogradTiling& tiling, const Width& width, const float* inputs,
                     int64_t channels, const float* weights, int64_t count, float* sums) {
  const ptrdiff_t panel = channels * kLanes<float>;
  const Extent extent{1, static_cast<int>(channels), 0, channels, 0};
  for (int p = 0; p < kPoints; ++p, inputs += tiling.point_values, sums += tiling.point_values,
           weights += width.all() * panel)
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
template <class T>
void output_tiles(const WinogradTiling& tiling, const Block& block, const Width& width,
                  const float* sums, int64_t first_tile, int64_t count, const Images<T>& result,
                  const T* mask) {
  in_groups<float>(width, [&](int first, auto number, auto half) {
    constexpr int kVectors = number.value, kAll = kVectors + half.value;
    const float* from = sums + first * tiling.tiles * kLanes<float>;
    for (int64_t t = 0; t < count; ++t, from += kAll * kLanes<float>) {
      const Place at(first_tile + t, block.rows, tiling.across);
      const int64_t y = 2 * (block.top + at.y), x = 2 * at.x;
      const int below = y + 1 < result.height ? 2 : 1, beside = x + 1 < result.width ? 2 : 1;
      T* const corner = result.row(block.first + at.image, y) + x * result.channels;
      for (int v = 0; v < kAll; ++v) {
        Vector<float> m[kPoints], half_way[8], outputs[4];
#pragma GCC unroll 16
        for (int p = 0; p < kPoints; ++p)
          m[p] = load(from + p * tiling.point_values + v * kLanes<float>);
#pragma GCC unroll 4
        for (int row = 0; row < 4; ++row) transform_sums(m + 4 * row, 1, half_way + 2 * row);
#pragma GCC unroll 2
        for (int column = 0; column < 2; ++column) {
          Vector<float> pair[2];
          transform_sums(half_way + column, 2, pair);
          outputs[column] = pair[0], outputs[2 + column] = pair[1];
        }
        const int64_t channel = (first + v) * kLanes<float>;
        const int lanes =
            static_cast<int>(std::min<int64_t>(kLanes<float>, result.channels - channel));
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          if (i / 2 >= below || i % 2 >= beside) continue;
          T* to = corner + (i / 2 * result.width + i % 2) * result.channels + channel;
          if (half.value && v == kVectors) outputs[i] = gathered(outputs[i]);
          put(outputs[i], to, mask ? mask + (to - result.data) : nullptr, lanes);
        }
      }
    }
  });
}

// Weights at the points, [point][vector][channel of the source][lane]; backward, transposed and
// turned. All threads of a parallel region together.
inline void winograd_pack(const DenseConv& op, const DenseWeights& weights, bool backward,
                          float* packed) {
  const float* from = static_cast<const float*>(weights.data);
  const int64_t sources = backward ? op.out_channels : op.in_channels;
  const int64_t results = backward ? op.in_channels : op.out_channels;
  const int64_t of_source = backward ? weights.over : weights.across;
  const int64_t of_result = backward ? weights.across : weights.over;
  const Width width = Width::of<float>(results, sources);
  const int64_t point = width.all() * sources * kLanes<float>;
#pragma omp for schedule(static) collapse(2)
  for (int64_t v = 0; v < width.all(); ++v)
    for (int64_t c = 0; c < sources; ++c) {
      const bool half = v == width.vectors;
      if (half && c % 2) continue;  // the even one has it
      const int64_t first = v * kLanes<float>;
      const int64_t lanes = std::min<int64_t>(kLanes<float>, (results - first) << half);
      Vector<float> w[9] = {}, half_way[12], u[kPoints];
      for (int tap = 0; tap < 9; ++tap) {
        const int place = backward ? 8 - tap : tap;
        const float* at = from + place / 3 * weights.down + place % 3 * weights.along;
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const int64_t source = half ? c + lane % 2 : c, result = first + (lane >> half);
          w[tap][lane] = at[source * of_source + result * of_result];
        }
      }
      for (int x = 0; x < 3; ++x) transform_weights(w[x], w[3 + x], w[6 + x], half_way + x, 3);
      for (int y = 0; y < 4; ++y)
        transform_weights(half_way[3 * y], half_way[3 * y + 1], half_way[3 * y + 2], u + 4 * y, 1);
      for (int p = 0; p < kPoints; ++p)
        store(packed + p * point + (v * sources + c) * kLanes<float>, u[p]);
    }
}

// All blocks of one direction; all threads of a parallel region together.
template <class T>
void winograd_direction(const DenseConv& op, const WinogradTiling& tiling, bool backward,
                        const void* source, const DenseWeights& weights, void* packed, void* result,
                        const void* mask, void* scratch) {
  const int64_t from = backward ? op.out_channels : op.in_channels;
  const int64_t to = backward ? op.in_channels : op.out_channels;
  const Images<const T> sources{static_cast<const T*>(source), op.height, op.width, from};
  const Images<T> results{static_cast<T*>(result), op.height, op.width, to};
  const Width width = Width::of<float>(to, from);
  winograd_pack(op, weights, backward, static_cast<float*>(packed));
#pragma omp for schedule(static)
  for (int64_t index = 0; index < tiling.blocks; ++index) {
    const Block block(tiling, op, index);
    const WinogradScratch own(scratch, tiling);
    for (int64_t i = 0; i < block.images; ++i)
      fill(sources, block.window(tiling, i), op.relu && !backward,
           own.sources + i * tiling.source_values);
    const int64_t tiles = block.tiles(tiling);
    for (int64_t first = 0; first < tiles; first += tiling.tiles) {
      const int64_t count = std::min(tiling.tiles, tiles - first);
      input_tiles(tiling, block, own.sources, from, first, count, own.inputs);
      multiply(tiling, width, own.inputs, from, static_cast<const float*>(packed), count, own.sums);
      output_tiles(tiling, block, width, own.sums, first, count, results,
                   static_cast<const T*>(mask));
    }
  }
}

// Gradients of the outputs of tiles [first, first + count), [point][tile][vector].
template <class T>
void gradient_tiles(const WinogradTiling& tiling, const Block& block, const Width& width,
                    const Images<const T>& grad, int64_t first, int64_t count, float* to) {
  const int64_t channels = grad.channels;
  for (int64_t t = 0; t < count; ++t) {
    const Place at(first + t, block.rows, tiling.across);
    const int64_t y = 2 * (block.top + at.y), x = 2 * at.x;
    const bool below = y + 1 < grad.height, beside = x + 1 < grad.width;
    const T* pixel = grad.row(block.first + at.image, y) + x * channels;
    for (int v = 0; v < width.all(); ++v, to += kLanes<float>) {
      const int64_t c = v * kLanes<float>;
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes<float>, channels - c));
      const auto read = [&](bool inside, int64_t offset) {
        if (!inside) return Vector<float>{};
        const Vector<float> g = load(pixel + offset * channels + c, lanes);
        return v == width.vectors ? spread(g) : g;
      };
      const Vector<float> g00 = read(true, 0), g01 = read(beside, 1);
      const Vector<float> g10 = read(below, grad.width),
                          g11 = read(below && beside, grad.width + 1);
      Vector<float> half_way[8], points[kPoints];
      transform_gradients(g00, g10, half_way, 2), transform_gradients(g01, g11, half_way + 1, 2);
#pragma GCC unroll 4
      for (int row = 0; row < 4; ++row)
        transform_gradients(half_way[2 * row], half_way[2 * row + 1], points + 4 * row, 1);
#pragma GCC unroll 16
      for (int p = 0; p < kPoints; ++p) store(to + p * tiling.point_values, points[p]);
    }
  }
}

// One slice of the blocks, to sums [point][in channel][vector].
template <class T>
void winograd_slice(const DenseConvBackward& args, const WinogradTiling& tiling, int64_t slice) {
  const DenseConv& op = args.op;
  const Images<const T> x{static_cast<const T*>(args.x), op.height, op.width, op.in_channels};
  const Images<const T> grad{static_cast<const T*>(args.grad), op.height, op.width,
                             op.out_channels};
  const Width width = Width::of<float>(op.out_channels, op.in_channels);
  const ptrdiff_t pitch = width.all() * kLanes<float>;
  const Extent extent{1, static_cast<int>(op.in_channels), 0, op.in_channels, 0};
  float* sums = static_cast<float*>(args.partials) + slice * tiling.partial_values;
  std::fill_n(sums, kPoints * op.in_channels * pitch, 0.0f);
  const WinogradScratch own(args.scratch, tiling);
  for (int64_t index = slice * tiling.blocks / tiling.slices;
       index < (slice + 1) * tiling.blocks / tiling.slices; ++index) {
    const Block block(tiling, op, index);
    for (int64_t i = 0; i < block.images; ++i)
      fill(x, block.window(tiling, i), op.relu, own.sources + i * tiling.source_values);
    const int64_t tiles = block.tiles(tiling);
    for (int64_t first = 0; first < tiles; first += tiling.tiles) {
      const int64_t count = std::min(tiling.tiles, tiles - first);
      input_tiles(tiling, block, own.sources, op.in_channels, first, count, own.inputs);
      gradient_tiles(tiling, block, width, grad, first, count, own.sums);
      for (int p = 0; p < kPoints; ++p)
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
                  own.inputs + p * tiling.point_values + c, extent, 0, of,
                  sums + (p * op.in_channels + c) * pitch + vector * kLanes<float>);
          });
        });
    }
  }
}

// Sums of all slices, in their order, as gradients of the weights.
inline void winograd_add(const DenseConvBackward& args, const WinogradTiling& tiling) {
  const DenseConv& op = args.op;
  const Width width = Width::of<float>(op.out_channels, op.in_channels);
  const ptrdiff_t pitch = width.all() * kLanes<float>;
  const DenseWeights& of = args.grad_weights;
#pragma omp for schedule(static) collapse(2)
  for (int64_t c = 0; c < op.in_channels; ++c)
    for (int v = 0; v < width.all(); ++v) {
      const bool half = v == width.vectors;
      const int64_t first = v * kLanes<float>;
      double u[kPoints][kLanes<float>] = {};
      for (int64_t slice = 0; slice < tiling.slices; ++slice)
        for (int p = 0; p < kPoints; ++p) {
          const float* from = static_cast<const float*>(args.partials) +
                              slice * tiling.partial_values +
                              (p * op.in_channels + (half ? c / 2 * 2 : c)) * pitch + first;
          for (int lane = 0; lane < kLanes<float>; ++lane) u[p][lane] += from[lane];
        }
      for (int64_t i = 0; i < std::min<int64_t>(kLanes<float>, op.out_channels - first); ++i) {
        const int64_t lane = half ? 2 * i + c % 2 : i;
        const auto weights = [](const double* from, double* to) {  // Gt u
          const double even = (from[1] + from[2]) / 2, odd = (from[1] - from[2]) / 2;
          to[0] = from[0] + even, to[1] = odd, to[2] = even + from[3];
        };
        double half_way[3][4];
        for (int x = 0; x < 4; ++x) {
          const double column[] = {u[x][lane], u[4 + x][lane], u[8 + x][lane], u[12 + x][lane]};
          double three[3];
          weights(column, three);
          for (int y = 0; y < 3; ++y) half_way[y][x] = three[y];
        }
        float* to = static_cast<float*>(of.data) + (first + i) * of.over + c * of.across;
        for (int y = 0; y < 3; ++y) {
          double row[3];
          weights(half_way[y], row);
          for (int x = 0; x < 3; ++x) to[y * of.down + x * of.along] = static_cast<float>(row[x]);
        }
      }
    }
}

template <class T>
void winograd_forward(const DenseConvForward& args, int threads) {
  const WinogradTiling tiling(args.op);
#pragma omp parallel num_threads(threads)
  winograd_direction<T>(args.op, tiling, false, args.x, args.weights, args.packed, args.y, nullptr,
                        args.scratch);
}

template <class T>
void winograd_backward(const DenseConvBackward& args, int threads) {
  const WinogradTiling tiling(args.op);
#pragma omp parallel num_threads(threads)
  {
    if (args.grad_x)
      winograd_direction<T>(args.op, tiling, true, args.grad, args.weights, args.packed,
                            args.grad_x, args.op.relu ? args.x : nullptr, args.scratch);
    if (args.grad_weights.data) {
#pragma omp for schedule(dynamic)
      for (int64_t slice = 0; slice < tiling.slices; ++slice)
        winograd_slice<T>(args, tiling, slice);
      winograd_add(args, tiling);
    }
  }
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
