// Weighted sum on CUDA. Bound by memory: every tensor is read or written once, 16 bytes at a time
// where all are dense and aligned. Weights are read on the device.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../mixed_sum.h"
#include "element.cuh"
#include "kernel_launch.cuh"
#include "layout.cuh"
#include "warp.cuh"

namespace asose::cuda {
namespace {

constexpr int kForwardThreads = 256;
constexpr int kBackwardThreads = 128;
constexpr int kDotThreads = 256;
constexpr int64_t kElementsPerTask = 8 * kBackwardThreads;
constexpr int64_t kMaxBlocks = 2048;  // enough to fill any GPU; blocks walk on from there

// Most layers need the small layout; a launch copies the whole of it.
constexpr int kFewInputs = 32;
constexpr int kFewDims = 4;

template <class T>
constexpr int kVector = 16 / sizeof(T);

// Operands of the layout: x[0..inputs), y.
template <class T, int kVec, class Layout>
__global__ void __launch_bounds__(kForwardThreads)
    mixed_sum_fwd_kernel(const __grid_constant__ Layout layout, int inputs, const Acc<T>* weights) {
  __shared__ int used[kMaxInputs];
  __shared__ Acc<T> weight[kMaxInputs];
  int count = 0;
  for (int k = 0; k < inputs; ++k) {
    const Acc<T> w = weights[k];
    if (w == 0) continue;
    if (threadIdx.x == 0) {
      used[count] = k;
      weight[count] = w;
    }
    ++count;
  }
  __syncthreads();

  const auto sum_at = [&](int64_t index, int64_t left) {
    const auto place = layout.place(index);
    Acc<T> sum[kVec] = {};
#pragma unroll 4
    for (int j = 0; j < count; ++j) {
      const auto x = load<kVec>(layout.template at<const T>(used[j], place), left);
#pragma unroll
      for (int i = 0; i < kVec; ++i) sum[i] += weight[j] * x[i];
    }
    Pack<T, kVec> y;
#pragma unroll
    for (int i = 0; i < kVec; ++i) y.set(i, sum[i]);
    store(y, layout.template at<T>(inputs, place), left);
  };
  const int64_t step = int64_t{gridDim.x} * kForwardThreads * kVec;
  int64_t index = (int64_t{blockIdx.x} * kForwardThreads + threadIdx.x) * kVec;
  for (; index + kVec <= layout.elements; index += step) sum_at(index, kVec);
  if (index < layout.elements) sum_at(index, layout.elements - index);
}

// Operands of the layout: x[0..inputs), grad, grad_x[0..inputs). A thread keeps kPacks packs of
// grad in registers and passes all inputs by them.
template <class T, int kVec, int kPacks, class Layout>
__global__ void __launch_bounds__(kBackwardThreads)
    mixed_sum_bwd_kernel(const __grid_constant__ Layout layout, int inputs, const Acc<T>* weights,
                         double* partials) {
  constexpr int kWarps = kBackwardThreads / kWarp;
  constexpr int64_t kTile = kBackwardThreads * kVec * kPacks;
  __shared__ Acc<T> weight[kMaxInputs];
  __shared__ double dots[kWarps][kMaxInputs];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int k = threadIdx.x; k < inputs; k += kBackwardThreads) weight[k] = weights[k];
  for (int k = lane; k < inputs; k += kWarp) dots[warp][k] = 0;
  __syncthreads();

  // `whole` lets the compiler drop the bounds checks of a tile that needs none.
  const auto walk = [&](int64_t begin, auto whole) {
    typename Layout::Place place[kPacks];
    int64_t left[kPacks];
    Pack<T, kVec> grad[kPacks], next[kPacks];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int64_t index = begin + (p * kBackwardThreads + threadIdx.x) * kVec;
      place[p] = layout.place(index);
      left[p] = decltype(whole)::value ? kVec : layout.elements - index;
      grad[p] = load<kVec>(layout.template at<const T>(inputs, place[p]), left[p]);
    }
    const auto read = [&](int k) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        next[p] = load<kVec>(layout.template at<const T>(k, place[p]), left[p]);
    };
    if (partials) read(0);
    for (int k = 0; k < inputs; ++k) {
      if (partials) {
        Pack<T, kVec> x[kPacks];
#pragma unroll
        for (int p = 0; p < kPacks; ++p) x[p] = next[p];
        if (k + 1 < inputs) read(k + 1);
        Acc<T> dot = 0;
#pragma unroll
        for (int p = 0; p < kPacks; ++p)
#pragma unroll
          for (int i = 0; i < kVec; ++i) dot += grad[p][i] * x[p][i];
        dot = warp_sum(dot);
        if (lane == 0) dots[warp][k] += dot;
      }
      if (!layout.data[inputs + 1 + k]) continue;
      const Acc<T> w = weight[k];
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        Pack<T, kVec> grad_x;
#pragma unroll
        for (int i = 0; i < kVec; ++i) grad_x.set(i, w == 0 ? Acc<T>{0} : w * grad[p][i]);
        store(grad_x, layout.template at<T>(inputs + 1 + k, place[p]), left[p]);
      }
    }
  };
  const int64_t step = gridDim.x * kTile;
  int64_t begin = blockIdx.x * kTile;
  for (; begin + kTile <= layout.elements; begin += step) walk(begin, std::true_type{});
  if (begin < layout.elements) walk(begin, std::false_type{});

  if (!partials) return;
  __syncthreads();
  for (int k = threadIdx.x; k < inputs; k += kBackwardThreads) {
    double dot = 0;
    for (int w = 0; w < kWarps; ++w) dot += dots[w][k];
    partials[int64_t{blockIdx.x} * inputs + k] = dot;
  }
}

// grad_weights[k]: the partial sums of all tasks, in an order that their number fixes.
template <class T>
__global__ void __launch_bounds__(kDotThreads)
    mixed_sum_dot_kernel(const double* partials, int64_t tasks, int inputs, T* grad_weights) {
  __shared__ double sums[kDotThreads / kWarp];
  const int k = blockIdx.x;
  double sum = 0;
  for (int64_t task = threadIdx.x; task < tasks; task += kDotThreads)
    sum += partials[task * inputs + k];
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  for (int w = 1; w < kDotThreads / kWarp; ++w) sum += sums[w];
  grad_weights[k] = static_cast<T>(sum);
}

int64_t elements(const IterationSpace& space) {
  int64_t result = 1;
  for (int d = 0; d < space.dims; ++d) result *= space.sizes[d];
  return result;
}

unsigned blocks(int64_t elements, int64_t per_block) {
  const int64_t needed = (elements + per_block - 1) / per_block;
  return static_cast<unsigned>(std::clamp<int64_t>(needed, 1, kMaxBlocks));
}

// Calls launch(layout, is_dense) with the smallest layout that holds the tensors.
template <int kOperandsPerInput, class Launch>
void with_layout(const IterationSpace& space, int inputs, OperandList tensors, Launch launch) {
  using All = Dense<kOperandsPerInput * kMaxInputs + 1>;
  using Few = Strided<kOperandsPerInput * kFewInputs + 1, kFewDims>;
  using Many = Strided<kOperandsPerInput * kMaxInputs + 1, kMaxDims>;
  static_assert(sizeof(Many) + 64 <= 32764, "kernel parameters");
  if (All::fits(space, tensors))
    launch(All(space, tensors), std::true_type{});
  else if (inputs <= kFewInputs && space.dims <= kFewDims)
    launch(Few(space, tensors), std::false_type{});
  else
    launch(Many(space, tensors), std::false_type{});
}

}  // namespace

int64_t mixed_sum_tasks(const IterationSpace& space) {
  return blocks(elements(space), kElementsPerTask);
}

void mixed_sum_forward(const MixedSumForward& args, Stream stream) {
  with_element(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    const OperandList tensors = {{args.x, args.inputs}, {&args.y, 1}};
    with_layout<1>(args.space, args.inputs, tensors, [&](const auto& layout, auto dense) {
      using Layout = std::decay_t<decltype(layout)>;
      constexpr int kVec = decltype(dense)::value ? kVector<T> : 1;
      launch_kernel("mixed_sum_fwd_kernel", mixed_sum_fwd_kernel<T, kVec, Layout>,
                    blocks(layout.elements, kForwardThreads * kVec), kForwardThreads, 0, stream,
                    layout, args.inputs, static_cast<const Acc<T>*>(args.weights));
    });
  });
}

void mixed_sum_backward(const MixedSumBackward& args, Stream stream) {
  const int64_t tasks = mixed_sum_tasks(args.space);
  with_element(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    const OperandList tensors = {
        {args.x, args.inputs}, {&args.grad, 1}, {args.grad_x, args.inputs}};
    with_layout<2>(args.space, args.inputs, tensors, [&](const auto& layout, auto dense) {
      using Layout = std::decay_t<decltype(layout)>;
      constexpr int kVec = decltype(dense)::value ? kVector<T> : 1;
      // Coordinates of a strided element take many registers: one at a time.
      constexpr int kPacks = decltype(dense)::value ? 8 / kVec : 1;
      launch_kernel("mixed_sum_bwd_kernel", mixed_sum_bwd_kernel<T, kVec, kPacks, Layout>, tasks,
                    kBackwardThreads, 0, stream, layout, args.inputs,
                    static_cast<const Acc<T>*>(args.weights), args.partials);
    });
    if (!args.partials) return;
    launch_kernel("mixed_sum_dot_kernel", mixed_sum_dot_kernel<Acc<T>>, args.inputs, kDotThreads, 0,
                  stream, args.partials, tasks, args.inputs,
                  static_cast<Acc<T>*>(args.grad_weights));
  });
}

}  // namespace asose::cuda
