// Multi-branch depthwise convolution on the CPU, tile by tile.
#include "../multi_depthwise.h"

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "depthwise_tile.h"
#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Blocks of channels whose values share cache lines. Forward, they go through a tile together, row
// by row, so that a line is read and written once; backward, more of a block's own stays in the
// first-level cache if it goes alone.
constexpr int kTogether = DepthwiseTiling::kVectorBytes / kVectorBytes;

// What every task needs: the tiling, its block of channels and its part of its thread's scratch.
template <class T>
struct Task {
  using A = typename Element<T>::Acc;

  const MultiDepthwise& op;
  const DepthwiseTiling& tiling;
  int64_t first_channel;
  int lanes;
  Vector<A>*input_plane, *output_plane, *grad_plane, *taps, *sums, *row;
  Branch<A> branches[kMaxBranches];

  Task(const MultiDepthwise& op, const DepthwiseTiling& tiling, int64_t block)
      : op(op),
        tiling(tiling),
        first_channel(block * kLanes<A>),
        lanes(static_cast<int>(std::min<int64_t>(kLanes<A>, op.channels - first_channel))),
        input_plane(reinterpret_cast<Vector<A>*>(
            static_cast<char*>(op.scratch) + omp_get_thread_num() * tiling.scratch_bytes +
            block % kTogether * (tiling.scratch_bytes / kTogether))),
        output_plane(input_plane + tiling.input_plane(op)),
        grad_plane(output_plane + tiling.output_plane(op)),
        taps(grad_plane + tiling.grad_plane(op)),
        sums(taps + op.taps()),
        row(sums + op.rows()) {
    int64_t first_tap = 0;
    for (int b = 0; b < op.branches; ++b) {
      branches[b] = Branch<A>(op, b, first_tap);
      first_tap += op.kernels[b] * op.kernels[b];
    }
    for (int64_t tap = 0; tap < first_tap; ++tap) taps[tap] = param(tap);
  }

  Vector<A> param(int64_t row) const {
    return load(static_cast<const A*>(op.params) + row * op.channels + first_channel, lanes);
  }
  Activation<A> activation(int input) const {
    if (!op.affine) return {false, op.relu};
    return {true, op.relu, param(op.taps() + input), param(op.taps() + op.inputs + input)};
  }
  Image<T> input_image(const void* tensor, const Tile& tile) const {
    return image<T>(const_cast<void*>(tensor), tile.image, op.images, op.height, op.width,
                    op.channels, first_channel, lanes);
  }
  Image<T> output_image(const void* tensor, const Tile& tile) const {
    return image<T>(const_cast<void*>(tensor), tile.image, op.images, tiling.out_height,
                    tiling.out_width, op.channels, first_channel, lanes);
  }
  PaddedTile<T> input_tile(int input, const Tile& tile) const {
    return {input_plane,
            constant(input_image(op.x[input], tile)),
            tile.top * op.stride,
            tile.left * op.stride,
            tile.padded() * op.stride,
            op.halo_down(),
            op.halo_across(),
            activation(input)};
  }
  PaddedTile<T> grad_tile(const void* grad, const Geometry& geometry, const Tile& tile) const {
    return {output_plane,
            constant(output_image(grad, tile)),
            tile.top,
            tile.left,
            tile.padded(),
            geometry.grad_halo_down(),
            geometry.grad_halo_across(),
            {}};
  }
};

template <class T>
void forward_tile(const MultiDepthwiseForward& args, const std::vector<Task<T>>& tasks,
                  const Tile& tile) {
  const MultiDepthwise& op = args.op;
  const int64_t halo = op.halo_down();
  for (int input = 0; input < op.inputs; ++input) {
    std::vector<PaddedTile<T>> source;
    source.reserve(tasks.size());
    for (const Task<T>& task : tasks) source.push_back(task.input_tile(input, tile));
    for (int y = 0; y < tile.height; ++y) {
      for (auto& plane : source) plane.filled_to(y * op.stride + halo);
      for (int b = op.first_branch(input); b < op.last_branch(input); ++b)
        for (size_t i = 0; i < tasks.size(); ++i) {
          const Task<T>& task = tasks[i];
          const auto& branch = task.branches[b];
          branch.kernels.forward(branch.geometry, source[i].plane(), task.taps + branch.first_tap,
                                 y, task.row, tile.width, false);
          write_row(task.output_image(args.y[b], tile), tile.top + y, tile.left, task.row,
                    tile.width);
        }
    }
  }
}

template <class T>
void forward(const MultiDepthwiseForward& args, int threads) {
  const DepthwiseTiling tiling(args.op);
  const int64_t blocks =
      DepthwiseTiling::ceil_div(args.op.channels, kLanes<typename Element<T>::Acc>);
  const int64_t groups = DepthwiseTiling::ceil_div(blocks, kTogether);
#pragma omp parallel for collapse(2) schedule(dynamic, groups) num_threads(threads)
  for (int64_t unit = 0; unit < tiling.units; ++unit)
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t first = group * kTogether, last = std::min(first + kTogether, blocks);
      std::vector<Task<T>> tasks;
      tasks.reserve(kTogether);
      for (int64_t block = first; block < last; ++block) tasks.emplace_back(args.op, tiling, block);
      forward_tile(args, tasks, Tile(tiling, unit));
      end_stream();
    }
}

template <class T>
void backward_tile(const MultiDepthwiseBackward& args, const Task<T>& task, const Tile& tile) {
  using A = typename Element<T>::Acc;
  const MultiDepthwise& op = args.op;
  for (int input = 0; input < op.inputs; ++input) {
    bool used = args.grad_x[input];
    for (int b = task.op.first_branch(input); b < task.op.last_branch(input); ++b)
      used = used || args.grad[b];
    if (!used) continue;  // its sums are 0
    const bool need_input = args.grad_x[input] || args.need_affine;
    PaddedTile<T> source = task.input_tile(input, tile);
    const Plane<A>& x = source.filled_to(tile.height * op.stride - 1 + op.halo_down());
    const Plane<A> grad_x = {task.grad_plane, tile.padded() * op.stride};
    bool accumulate = false;
    for (int b = task.op.first_branch(input); b < task.op.last_branch(input); ++b) {
      if (!args.grad[b]) continue;
      const auto& branch = task.branches[b];
      PaddedTile<T> grad = task.grad_tile(args.grad[b], branch.geometry, tile);
      for (int y = 0; y < tile.height; ++y) {
        const Plane<A>& g = grad.filled_to(y + branch.geometry.grad_halo_down());
        if (args.need_weights)
          branch.kernels.weight_gradient(branch.geometry, x, g.row(y), y,
                                         task.sums + branch.first_tap, tile.width);
        if (need_input)
          for (int row = y * op.stride; row < (y + 1) * op.stride; ++row)
            branch.kernels.input_gradient(branch.geometry, g, task.taps + branch.first_tap, row,
                                          grad_x.row(row), tile.width * op.stride, accumulate);
      }
      accumulate = true;
    }
    if (!need_input) continue;
    if (!accumulate) std::fill(grad_x.origin, grad_x.row(tile.height * op.stride), Vector<A>{});
    const int64_t row = op.taps() + input;
    finish_input_gradient<T>(task.activation(input), x, grad_x,
                             constant(task.input_image(op.x[input], tile)),
                             task.input_image(args.grad_x[input], tile), tile.top * op.stride,
                             tile.left * op.stride, tile.height * op.stride, tile.width * op.stride,
                             args.need_affine ? task.sums + row : nullptr,
                             args.need_affine ? task.sums + row + op.inputs : nullptr);
  }
}

template <class T>
void backward(const MultiDepthwiseBackward& args, int threads) {
  using A = typename Element<T>::Acc;
  const MultiDepthwise& op = args.op;
  const DepthwiseTiling tiling(op);
  const int64_t blocks = DepthwiseTiling::ceil_div(op.channels, kLanes<A>);
  const int64_t rows = op.rows();
  const bool need_params = args.need_weights || args.need_affine;
  A* partials = static_cast<A*>(args.partials);
#pragma omp parallel for collapse(2) schedule(dynamic, blocks) num_threads(threads)
  for (int64_t slice = 0; slice < tiling.slices; ++slice)
    for (int64_t block = 0; block < blocks; ++block) {
      const Task<T> task(op, tiling, block);
      std::fill(task.sums, task.sums + rows, Vector<A>{});
      for (int64_t unit = tiling.first_unit(slice); unit < tiling.first_unit(slice + 1); ++unit)
        backward_tile(args, task, Tile(tiling, unit));
      end_stream();
      if (!need_params) continue;
      A* to = partials + slice * rows * op.channels + task.first_channel;
      for (int64_t row = 0; row < rows; ++row, to += op.channels)
        store(to, task.sums[row], task.lanes);
    }
  if (need_params)
    add_up(partials, tiling.slices, rows * op.channels, static_cast<A*>(args.grad_params), threads);
}

}  // namespace

void multi_depthwise_forward(const MultiDepthwiseForward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void multi_depthwise_backward(const MultiDepthwiseBackward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
