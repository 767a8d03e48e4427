// Depthwise-separable convolutions on the CPU. What a depthwise convolution gives passes to the
// pointwise one, and back, in strips of rows that stay in the first-level cache.
#include "../separable.h"

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "depthwise_tile.h"
#include "element.h"
#include "norm_gradient.h"
#include "pixel_gemm.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

static_assert(kStep == 8 && kWeightLanes == SeparableTiling::kPad, "what mix_pixels takes");

// A thread's part of the scratch, and what every task needs.
template <class T>
struct Worker {
  using A = typename Element<T>::Acc;

  const MultiDepthwise& op;
  const SeparableTiling& tiling;
  const A* pointwise;
  int blocks;                          // of kLanes channels
  Vector<A>*inputs, *outputs, *grads;  // planes of all blocks
  Vector<A>*taps, *sums;               // rows of all blocks
  Vector<A>*before, *after;            // strips: what enters the pointwise convolution, what leaves
  Branch<A> branches[kMaxBranches];

  Worker(const Separable& separable, const SeparableTiling& tiling)
      : op(separable.depthwise),
        tiling(tiling),
        pointwise(static_cast<const A*>(separable.blocked)),
        blocks(static_cast<int>(DepthwiseTiling::ceil_div(op.channels, kLanes<A>))),
        inputs(reinterpret_cast<Vector<A>*>(static_cast<char*>(op.scratch) +
                                            omp_get_thread_num() * tiling.scratch_bytes)),
        outputs(inputs + blocks * tiling.input_plane(op)),
        grads(outputs + blocks * tiling.gradient_plane),
        taps(grads + blocks * tiling.grad_plane(op)),
        sums(taps + blocks * op.taps()),
        before(sums + blocks * op.rows()),
        after(before + blocks * tiling.strip_plane()) {
    int64_t first_tap = 0;
    for (int b = 0; b < op.branches; ++b) {
      branches[b] = Branch<A>(op, b, first_tap);
      first_tap += op.kernels[b] * op.kernels[b];
    }
    for (int block = 0; block < blocks; ++block)
      for (int64_t tap = 0; tap < first_tap; ++tap)
        taps[block * first_tap + tap] = row_of(op.params, tap, block);
  }

  int lanes(int block) const {
    return static_cast<int>(std::min<int64_t>(kLanes<A>, op.channels - block * kLanes<A>));
  }
  // So many of the planes from that of a block on are computed together.
  int planes_from(int block) const { return std::min(kPlanesAtOnce, blocks - block); }
  Vector<A> row_of(const void* table, int64_t row, int block) const {
    return load(static_cast<const A*>(table) + row * op.channels + block * kLanes<A>, lanes(block));
  }
  Activation<A> activation(int input, int block) const {
    if (!op.affine) return {false, op.relu};
    return {true, op.relu, row_of(op.params, op.taps() + input, block),
            row_of(op.params, op.taps() + op.inputs + input, block)};
  }
  Image<T> input_image(const void* tensor, const Tile& tile, int block) const {
    return image<T>(const_cast<void*>(tensor), tile.image, op.images, op.height, op.width,
                    op.channels, block * kLanes<A>, lanes(block));
  }
  Image<T> output_image(const void* tensor, const Tile& tile, int block) const {
    return image<T>(const_cast<void*>(tensor), tile.image, op.images, tiling.out_height,
                    tiling.out_width, op.channels, block * kLanes<A>, lanes(block));
  }
  // The activated input, one tile a block.
  std::vector<PaddedTile<T>> input_tiles(int input, const Tile& tile) const {
    std::vector<PaddedTile<T>> tiles;
    tiles.reserve(blocks);
    for (int block = 0; block < blocks; ++block)
      tiles.emplace_back(inputs + block * tiling.input_plane(op),
                         constant(input_image(op.x[input], tile, block)), tile.top * op.stride,
                         tile.left * op.stride, tile.padded() * op.stride, op.halo_down(),
                         op.halo_across(), activation(input, block));
    return tiles;
  }

  // The weights of a block of output channels, kWeightLanes apart.
  const A* pointwise_of(int branch, int block) const {
    const int64_t first = block * kLanes<A>;
    return pointwise + branch * op.channels * tiling.padded_channels +
           first / kWeightLanes * kWeightLanes * op.channels + first % kWeightLanes;
  }
  // Rows [first, last) of a depthwise output, row after row, `tile.padded()` vectors each.
  void depthwise_strip(int branch, const std::vector<PaddedTile<T>>& planes, const Tile& tile,
                       int first, int last) const {
    const Branch<A>& b = branches[branch];
    for (int block = 0; block < blocks; ++block)
      for (int y = first; y < last; ++y)
        b.kernels.forward(b.geometry, planes[block].plane(), taps + block * op.taps() + b.first_tap,
                          y, before + block * tiling.strip_plane() + (y - first) * tile.padded(),
                          tile.width, false);
  }
};

// Fills op.blocked, all threads of a parallel region together.
template <class A>
void block_pointwise(const Separable& op, const SeparableTiling& tiling, bool backward) {
  constexpr int64_t pad = SeparableTiling::kPad;
  const int64_t channels = op.depthwise.channels, groups = tiling.padded_channels / pad;
  const int64_t all = op.depthwise.branches * groups;
  const int64_t across = backward ? 1 : channels, along = backward ? channels : 1;
#pragma omp for schedule(static)
  for (int64_t group = 0; group < all; ++group) {
    const int64_t first = group % groups * pad;
    const int64_t lanes = std::min(pad, channels - first);
    const A* from = static_cast<const A*>(op.pointwise) + group / groups * channels * channels;
    A* to = static_cast<A*>(op.blocked) + group * channels * pad;
    for (int64_t c = 0; c < channels; ++c, to += pad) {
      for (int64_t i = 0; i < lanes; ++i) to[i] = from[c * along + (first + i) * across];
      std::fill(to + lanes, to + pad, A{});
    }
  }
}

// Mean and sum of squared deviations of every channel, merged strip by strip (Chan, Golub and
// LeVeque, 1983); within a strip, deviations are taken about its first value.
template <class A>
void add_statistics(const Vector<A>* strip, int rows, int width, int pitch, int lanes, double count,
                    double* mean, double* squares) {
  constexpr int kSums = 4;  // none of which waits for another
  const Vector<A> about = strip[0];
  Vector<A> sums[kSums] = {}, squares_of[kSums] = {};
  const auto add = [&](const Vector<A>* from, int i) {
    const Vector<A> deviation = from[i] - about;
    sums[i] += deviation;
    squares_of[i] += deviation * deviation;
  };
  for (int y = 0; y < rows; ++y, strip += pitch) {
    int x = 0;
    for (; x + kSums <= width; x += kSums)
#pragma GCC unroll 4
      for (int i = 0; i < kSums; ++i) add(strip + x, i);
    for (int i = 0; x + i < width; ++i) add(strip + x, i);
  }
  const Vector<A> sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  const Vector<A> square = (squares_of[0] + squares_of[1]) + (squares_of[2] + squares_of[3]);
  const double added = static_cast<double>(rows) * width;
  const double share = added / (count + added);
  for (int lane = 0; lane < lanes; ++lane) {
    const double total = sum[lane];
    const double distance = about[lane] + total / added - mean[lane];
    mean[lane] += share * distance;
    squares[lane] +=
        std::max(square[lane] - total * total / added, 0.0) + count * share * distance * distance;
  }
}

// Adds `count` values of mean and squared deviations, per channel, to `before` others.
void merge_statistics(const double* from, double count, double before, int64_t channels,
                      double* mean, double* squares) {
  const double share = count / (before + count);
  for (int64_t c = 0; c < channels; ++c) {
    const double distance = from[c] - mean[c];
    mean[c] += share * distance;
    squares[c] += from[channels + c] + before * share * distance * distance;
  }
}

// `count` values of every channel are in the slice's statistics already.
template <class T>
void forward_tile(const SeparableForward& args, const Worker<T>& worker, const Tile& tile,
                  double count, double* statistics) {
  using A = typename Element<T>::Acc;
  const MultiDepthwise& op = worker.op;
  const SeparableTiling& tiling = worker.tiling;
  const int padded = tile.padded();
  const int64_t halo = op.halo_down();
  for (int input = 0; input < op.inputs; ++input) {
    std::vector<PaddedTile<T>> source = worker.input_tiles(input, tile);
    for (int first = 0; first < tile.height; first += tiling.strip_rows) {
      const int last = std::min<int>(first + tiling.strip_rows, tile.height);
      const int rows = last - first;
      for (auto& plane : source) plane.filled_to((last - 1) * op.stride + halo);
      for (int b = worker.op.first_branch(input); b < worker.op.last_branch(input); ++b) {
        worker.depthwise_strip(b, source, tile, first, last);
        for (int block = 0; block < worker.blocks; block += kPlanesAtOnce)
          mix_pixels<A>(worker.before, padded, tiling.strip_plane(), op.channels,
                        worker.pointwise_of(b, block), worker.after + block * tiling.strip_plane(),
                        padded, tiling.strip_plane(), worker.planes_from(block), rows, padded);
        for (int block = 0; block < worker.blocks; ++block) {
          const Vector<A>* strip = worker.after + block * tiling.strip_plane();
          const Image<T> out = worker.output_image(args.z[b], tile, block);
          for (int y = 0; y < rows; ++y)
            write_row(out, tile.top + first + y, tile.left, strip + y * padded, tile.width);
          if (!statistics) continue;
          double* mean = statistics + b * 2 * op.channels + block * kLanes<A>;
          add_statistics<A>(strip, rows, tile.width, padded, out.lanes,
                            count + static_cast<double>(first) * tile.width, mean,
                            mean + op.channels);
        }
      }
    }
  }
}

double pixels(const Tile& tile) { return static_cast<double>(tile.height) * tile.width; }

template <class T>
void forward(const SeparableForward& args, int threads) {
  const MultiDepthwise& op = args.op.depthwise;
  const SeparableTiling tiling(args.op);
  const int64_t row = op.branches * 2 * op.channels;
#pragma omp parallel num_threads(threads)
  {
    const Worker<T> worker(args.op, tiling);
    block_pointwise<typename Element<T>::Acc>(args.op, tiling, false);
#pragma omp for schedule(dynamic)
    for (int64_t slice = 0; slice < tiling.slices; ++slice) {
      double* statistics = args.partials ? args.partials + slice * row : nullptr;
      if (statistics) std::fill_n(statistics, row, 0.0);
      double count = 0;
      for (int64_t unit = tiling.first_unit(slice); unit < tiling.first_unit(slice + 1); ++unit) {
        const Tile tile(tiling, unit);
        forward_tile<T>(args, worker, tile, count, statistics);
        count += pixels(tile);
      }
      end_stream();
    }
  }
  if (!args.partials) return;
  std::fill_n(args.mean, op.branches * op.channels, 0.0);
  std::fill_n(args.var, op.branches * op.channels, 0.0);
  double total = 0;
  for (int64_t slice = 0; slice < tiling.slices; ++slice) {
    double count = 0;
    for (int64_t unit = tiling.first_unit(slice); unit < tiling.first_unit(slice + 1); ++unit)
      count += pixels(Tile(tiling, unit));
    for (int b = 0; b < op.branches; ++b)
      merge_statistics(args.partials + slice * row + b * 2 * op.channels, count, total, op.channels,
                       args.mean + b * op.channels, args.var + b * op.channels);
    total += count;
  }
  for (int64_t i = 0; i < op.branches * op.channels; ++i) args.var[i] /= total;
}

// What the gradient of an output is made of, for one block of channels.
template <class T>
struct OutputGradient {
  using A = typename Element<T>::Acc;

  Image<const T> grad, z;
  NormGradient<A> norm;

  OutputGradient(const SeparableBackward& args, const Worker<T>& worker, int branch,
                 const Tile& tile, int block)
      : grad(constant(worker.output_image(args.grad[branch], tile, block))),
        z(constant(worker.output_image(args.z[branch], tile, block))),
        norm(NormGradient<A>::from(
            static_cast<const A*>(args.tables) + branch * 4 * worker.op.channels,
            worker.op.channels, block * kLanes<A>, worker.lanes(block))) {}

  // Pixels [first, last) of row y to `to`, and zeros up to a multiple of kStep.
  void read(int64_t y, int64_t first, int64_t last, Vector<A>* to) const {
    const int64_t count = last - first, ahead = kAhead * grad.width * grad.channels;
    const int64_t channels = grad.channels;
    const T *g = grad.pixel(y, first), *value = z.data ? z.pixel(y, first) : nullptr;
    const NormGradient<A> norm = this->norm;
    with_lanes<A>(grad.lanes, [&](auto lanes) {
      if (value)
        for (int64_t x = 0; x < count; ++x) {
          to[x] = norm(load(g + x * channels, lanes), load(value + x * channels, lanes));
          __builtin_prefetch(g + x * channels + ahead);
          __builtin_prefetch(value + x * channels + ahead);
        }
      else
        for (int64_t x = 0; x < count; ++x) {
          to[x] = norm(load(g + x * channels, lanes));
          __builtin_prefetch(g + x * channels + ahead);
        }
    });
    std::fill(to + count, to + (count + kStep - 1) / kStep * kStep, Vector<A>{});
  }
};

// Of a depthwise output's gradient with its margins; rows may be written up to a multiple of kStep.
ptrdiff_t gradient_pitch(int width, int halo) { return width + 2 * halo + kStep; }

// One branch of a tile: the gradient of its depthwise output, with margins, to worker.outputs; the
// gradient of its pointwise weights is added to `grad_pointwise`, where that is there.
template <class T, class A = typename Element<T>::Acc>
void pointwise_backward(const SeparableBackward& args, const Worker<T>& worker, int branch,
                        const std::vector<PaddedTile<T>>& source, const Tile& tile,
                        A* grad_pointwise) {
  const MultiDepthwise& op = worker.op;
  const SeparableTiling& tiling = worker.tiling;
  const int padded = tile.padded();
  const Geometry& geometry = worker.branches[branch].geometry;
  const int down = geometry.grad_halo_down(), across = geometry.grad_halo_across();
  const ptrdiff_t pitch = gradient_pitch(padded, across);
  // Columns and rows of the tile and its margin that lie in the image.
  const int64_t left = std::max<int64_t>(-across, -tile.left);
  const int64_t right = std::min<int64_t>(padded + across, tiling.out_width - tile.left);
  const int64_t top = std::max<int64_t>(-down, -tile.top);
  const int64_t bottom = std::min<int64_t>(tile.height + down, tiling.out_height - tile.top);
  const int count = static_cast<int>((right - left + kStep - 1) / kStep * kStep);

  std::vector<OutputGradient<T>> gradients;
  gradients.reserve(worker.blocks);
  for (int block = 0; block < worker.blocks; ++block)
    gradients.emplace_back(args, worker, branch, tile, block);
  const auto row = [&](int block, int64_t y) {  // its first pixel is the leftmost of the margin
    return worker.outputs + block * tiling.gradient_plane + (y + down) * pitch;
  };

  for (int64_t y = -down; y < tile.height + down; ++y)
    if (y < top || y >= bottom)
      for (int block = 0; block < worker.blocks; ++block)
        std::fill_n(row(block, y), pitch, Vector<A>{});

  // Strips do not cross the borders between the tile and its margin.
  for (int64_t first = top; first < bottom;) {
    const bool inside = 0 <= first && first < tile.height;
    const int64_t border = first < 0 ? 0 : inside ? tile.height : bottom;
    const int64_t last = std::min(first + tiling.strip_rows, border);
    for (int64_t y = first; y < last; ++y)
      for (int block = 0; block < worker.blocks; ++block)
        gradients[block].read(
            tile.top + y, tile.left + left, tile.left + right,
            worker.after + block * tiling.strip_plane() + (y - first) * tiling.strip_pitch());
    for (int block = 0; block < worker.blocks; block += kPlanesAtOnce)
      mix_pixels<A>(worker.after, tiling.strip_pitch(), tiling.strip_plane(), op.channels,
                    worker.pointwise_of(branch, block), row(block, first) + across + left, pitch,
                    tiling.gradient_plane, worker.planes_from(block),
                    static_cast<int>(last - first), count);
    for (int block = 0; block < worker.blocks; ++block)
      for (int64_t y = first; y < last; ++y) {
        Vector<A>* to = row(block, y);
        std::fill(to, to + across + left, Vector<A>{});
        std::fill(to + across + right, to + pitch, Vector<A>{});
      }
    if (inside && grad_pointwise) {
      worker.depthwise_strip(branch, source, tile, first, last);
      for (int o = 0; o < worker.blocks; ++o)
        for (int c = 0; c < worker.blocks; c += kPlanesAtOnce)
          outer_product<A>(worker.after + o * tiling.strip_plane() - left, tiling.strip_pitch(),
                           worker.lanes(o), worker.before + c * tiling.strip_plane(), padded,
                           tiling.strip_plane(), worker.planes_from(c),
                           static_cast<int>(last - first), tile.width,
                           grad_pointwise + o * kLanes<A> * tiling.padded_channels + c * kLanes<A>,
                           tiling.padded_channels);
    }
    first = last;
  }
}

template <class T, class A = typename Element<T>::Acc>
void backward_tile(const SeparableBackward& args, const Worker<T>& worker, const Tile& tile,
                   A* grad_pointwise) {
  const MultiDepthwise& op = worker.op;
  const SeparableTiling& tiling = worker.tiling;
  const int padded = tile.padded();
  const int64_t matrix = op.channels * tiling.padded_channels;
  for (int input = 0; input < op.inputs; ++input) {
    bool used = args.grad_x[input];
    for (int b = worker.op.first_branch(input); b < worker.op.last_branch(input); ++b)
      used = used || args.grad[b];
    if (!used) continue;  // its sums are 0
    const bool need_input = args.grad_x[input] || args.need_affine;
    std::vector<PaddedTile<T>> source = worker.input_tiles(input, tile);
    for (auto& plane : source) plane.filled_to(tile.height * op.stride - 1 + op.halo_down());
    const auto grad_plane = [&](int block) {
      return Plane<A>{worker.grads + block * tiling.grad_plane(op), padded * op.stride};
    };
    bool accumulate = false;
    for (int b = worker.op.first_branch(input); b < worker.op.last_branch(input); ++b) {
      if (!args.grad[b]) continue;
      const Branch<A>& branch = worker.branches[b];
      pointwise_backward<T>(args, worker, b, source, tile,
                            grad_pointwise ? grad_pointwise + b * matrix : nullptr);
      const int down = branch.geometry.grad_halo_down();
      const int across = branch.geometry.grad_halo_across();
      const ptrdiff_t pitch = gradient_pitch(padded, across);
      for (int block = 0; block < worker.blocks; ++block) {
        const Plane<A> g = {worker.outputs + block * tiling.gradient_plane + down * pitch + across,
                            pitch};
        const Plane<A> grad_x = grad_plane(block);
        for (int y = 0; y < tile.height; ++y) {
          if (args.need_depthwise)
            branch.kernels.weight_gradient(branch.geometry, source[block].plane(), g.row(y), y,
                                           worker.sums + block * op.rows() + branch.first_tap,
                                           tile.width);
          if (need_input)
            for (int row = y * op.stride; row < (y + 1) * op.stride; ++row)
              branch.kernels.input_gradient(branch.geometry, g,
                                            worker.taps + block * op.taps() + branch.first_tap, row,
                                            grad_x.row(row), tile.width * op.stride, accumulate);
        }
      }
      accumulate = true;
    }
    if (!need_input) continue;
    for (int block = 0; block < worker.blocks; ++block) {
      const Plane<A> grad_x = grad_plane(block);
      if (!accumulate) std::fill(grad_x.origin, grad_x.row(tile.height * op.stride), Vector<A>{});
      Vector<A>* sums = worker.sums + block * op.rows() + op.taps() + input;
      finish_input_gradient<T>(worker.activation(input, block), source[block].plane(), grad_x,
                               constant(worker.input_image(op.x[input], tile, block)),
                               worker.input_image(args.grad_x[input], tile, block),
                               tile.top * op.stride, tile.left * op.stride, tile.height * op.stride,
                               tile.width * op.stride, args.need_affine ? sums : nullptr,
                               args.need_affine ? sums + op.inputs : nullptr);
    }
  }
}

template <class T>
void backward(const SeparableBackward& args, int threads) {
  using A = typename Element<T>::Acc;
  const MultiDepthwise& op = args.op.depthwise;
  const SeparableTiling tiling(args.op);
  const int64_t rows = op.rows() * op.channels;
  const int64_t matrices = op.branches * op.channels * tiling.padded_channels;
  const bool need_params = args.need_depthwise || args.need_affine;
  A* partials = static_cast<A*>(args.partials);
  A* partials_pointwise = static_cast<A*>(args.partials_pointwise);
#pragma omp parallel num_threads(threads)
  {
    const Worker<T> worker(args.op, tiling);
    block_pointwise<A>(args.op, tiling, true);
#pragma omp for schedule(dynamic)
    for (int64_t slice = 0; slice < tiling.slices; ++slice) {
      std::fill_n(worker.sums, worker.blocks * op.rows(), Vector<A>{});
      A* grad_pointwise = args.need_pointwise ? partials_pointwise + slice * matrices : nullptr;
      if (grad_pointwise) std::fill_n(grad_pointwise, matrices, A{});
      for (int64_t unit = tiling.first_unit(slice); unit < tiling.first_unit(slice + 1); ++unit)
        backward_tile<T>(args, worker, Tile(tiling, unit), grad_pointwise);
      end_stream();
      if (!need_params) continue;
      for (int block = 0; block < worker.blocks; ++block) {
        A* to = partials + slice * rows + block * kLanes<A>;
        for (int64_t row = 0; row < op.rows(); ++row, to += op.channels)
          store(to, worker.sums[block * op.rows() + row], worker.lanes(block));
      }
    }
  }
  if (need_params)
    add_up(partials, tiling.slices, rows, static_cast<A*>(args.grad_params), threads);
  if (args.need_pointwise)
    add_up(partials_pointwise, tiling.slices, matrices, static_cast<A*>(args.grad_pointwise),
           threads);
}

}  // namespace

void separable_forward(const SeparableForward& args, int threads) {
  with_element(args.op.depthwise.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void separable_backward(const SeparableBackward& args, int threads) {
  with_element(args.op.depthwise.dtype,
               [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
