// Multi-branch depthwise convolution on CUDA. A thread owns a channel and a strip of a row: it
// slides over registers, while the 16 channels of a tile are in shared memory. Blocks walk over
// tiles; how the sums over pixels are cut depends on the shape alone. Backward, what a thread reads
// of a gradient meets both weights and inputs, so that one pass gives the gradients of either.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "../multi_depthwise.h"
#include "depthwise_plane.cuh"
#include "element.cuh"
#include "kernel_launch.cuh"
#include "warp.cuh"

namespace asose::cuda {
namespace {

constexpr int kStrip = 8;     // pixels of a thread, in a row
constexpr int kTileRows = 8;  // of the tensor whose strips the threads own
constexpr int kMaxStrips = 2;
constexpr int kThreads = kChannels * kTileRows * kMaxStrips;
constexpr int kBlocksPerMultiprocessor = 3;  // at least; it bounds the registers of a thread
constexpr int kBlocksOfSums = 2;             // of weights, which take more registers and memory
constexpr int64_t kMaxSlices = 256;

constexpr int kRun = 7;  // taps in a row of a kernel that are unrolled
// Shared memory for sums of weight gradients: that of 120 taps, and (3, 5, 7; dilation 1),
// (3, 5; 2) have 117.
constexpr size_t kMaxTapBytes = 60 * 1024;

constexpr int kReduceColumns = 32;
constexpr int kReduceParts = 8;

constexpr int64_t kMaxBlocks = 0x7fffffff;
constexpr int64_t kMaxPad = 1 << 24;  // positions in a tile are ints

struct Branch {
  int kernel, dilation, pad;
  int first_tap;
  void* output;  // or its gradient, null where there is none
};

// This is the parameter of the kernels.
struct Convolution {
  int64_t images, channels, height, width, out_height, out_width;
  bool relu, affine;
  int inputs, branches, taps;
  int halo;
  int strips;
  int64_t groups;  // of channels
  int64_t slices;  // of the tiles
  const void* params;
  const void* x[kMaxBranches];
  void* grad_x[kMaxBranches];
  Branch branch[kMaxBranches];

  __device__ int first_branch(int input) const { return inputs == 1 ? 0 : input; }
  __device__ int last_branch(int input) const { return inputs == 1 ? branches : input + 1; }
  __host__ __device__ int last_tap(int input) const {
    return inputs == 1 || input + 1 == inputs ? taps : branch[input + 1].first_tap;
  }

  template <class T>
  __device__ const Acc<T>* param(int64_t row) const {
    return static_cast<const Acc<T>*>(params) + row * channels;
  }
  template <class T>
  __device__ Plane<T> input_plane(int input) const {
    return {static_cast<const T*>(x[input]),
            height,
            width,
            channels,
            relu,
            affine,
            param<T>(taps + input),
            param<T>(taps + inputs + input)};
  }
  template <class T>
  __device__ Plane<T> output_plane(int b) const {
    return {static_cast<const T*>(branch[b].output), out_height, out_width, channels};
  }
};

// These are the sizes of the tile that an input is read into, and of one for an output's gradient.
template <int kStride>
__host__ __device__ Extent input_extent(const Convolution& op) {
  return {(kTileRows - 1) * kStride + 1 + 2 * op.halo,
          (kStrip * op.strips - 1) * kStride + 1 + 2 * op.halo};
}
template <int kStride>
__host__ __device__ int grad_margin(const Convolution& op) {
  return (op.halo + kStride - 1) / kStride;
}
template <int kStride>
__host__ __device__ Extent grad_extent(const Convolution& op) {
  const int margins = 2 * grad_margin<kStride>(op);
  return {kTileRows / kStride + margins, kStrip * op.strips / kStride + margins};
}

__host__ __device__ int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Corner {
  int64_t image, top, left;
};

// The tiles of a tensor, and what a block does with them: a task, such as an input, for a group of
// channels and a slice of the tiles.
struct Work {
  int64_t down, across, tile_width;
  int64_t task, first_channel, slice, unit, last_unit;

  __device__ Work(const Convolution& op, int64_t height, int64_t width)
      : down(ceil_div(height, kTileRows)),
        across(ceil_div(width, kStrip * op.strips)),
        tile_width(kStrip * op.strips) {
    const int64_t block = blockIdx.x, units = op.images * down * across;
    slice = block % op.slices;
    first_channel = block / op.slices % op.groups * kChannels;
    task = block / op.slices / op.groups;
    const int64_t each = units / op.slices, more = units % op.slices;
    unit = slice * each + (slice < more ? slice : more);
    last_unit = unit + each + (slice < more);
  }
  __device__ Corner corner() const {
    return {unit / (down * across), unit / across % down * kTileRows, unit % across * tile_width};
  }
};

// The place of a thread in a tile.
struct Place {
  int channel, row, column;

  __device__ Place()
      : channel(threadIdx.x % kChannels),
        row(threadIdx.x / kChannels % kTileRows),
        column(threadIdx.x / (kChannels * kTileRows) * kStrip) {}
};

// A kernel size and dilation, known to the compiler or not.
template <int kKernel, int kDilation>
struct Fixed {
  static constexpr int kernel = kKernel, dilation = kDilation, pad = kDilation * (kKernel - 1) / 2;
};
struct Any {
  int kernel, dilation, pad;
};

template <bool kFixed, class Body>
__device__ void with_kernel(const Branch& branch, Body body) {
  if constexpr (kFixed) {
    if (branch.dilation == 1) {
      if (branch.kernel == 3) return body(Fixed<3, 1>{});
      if (branch.kernel == 5) return body(Fixed<5, 1>{});
      if (branch.kernel == 7) return body(Fixed<7, 1>{});
    } else if (branch.dilation == 2) {
      if (branch.kernel == 3) return body(Fixed<3, 2>{});
      if (branch.kernel == 5) return body(Fixed<5, 2>{});
    }
  }
  body(Any{branch.kernel, branch.dilation, branch.pad});
}

template <class Kernel>
constexpr bool is_fixed = !std::is_same_v<Kernel, Any>;

// Calls tap(t, value) for tap first + t of a row of the kernel, t < count, where value(i) is what
// it meets at pixel i of a strip, at `column` of the tile for the first tap of the row.
template <int kStride, class Tile, class Kernel, class Tap>
__device__ void slide(const Tile& tile, int row, int column, Kernel kernel, int first, int count,
                      Tap tap) {
  if constexpr (is_fixed<Kernel>) {
    constexpr int kWindow = (kStrip - 1) * kStride + (Kernel::kernel - 1) * Kernel::dilation + 1;
    typename Tile::A window[kWindow];
#pragma unroll
    for (int i = 0; i < kWindow; ++i) window[i] = tile(row, column + i);
#pragma unroll
    for (int t = 0; t < Kernel::kernel; ++t)
      tap(t, [&](int i) { return window[i * kStride + t * Kernel::dilation]; });
  } else {
#pragma unroll
    for (int t = 0; t < kRun; ++t)
      if (t < count)
        tap(t,
            [&](int i) { return tile(row, column + i * kStride + (first + t) * kernel.dilation); });
  }
}

// y_b = conv(v, w_b)
template <class T, int kStride, class Tile>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    multi_depthwise_fwd_kernel(const __grid_constant__ Convolution op) {
  using A = Acc<T>;
  Work work(op, op.out_height, op.out_width);
  const Place place;
  const int input = static_cast<int>(work.task);
  const int64_t channel = work.first_channel + place.channel;
  const Plane<T> x = op.input_plane<T>(input);
  Tile tile(input_extent<kStride>(op));
  for (; work.unit < work.last_unit; ++work.unit) {
    const Corner corner = work.corner();
    tile.read(x.image(corner.image), corner.top * kStride - op.halo,
              corner.left * kStride - op.halo, work.first_channel);
    const int64_t oy = corner.top + place.row, ox = corner.left + place.column;
    const int64_t left = op.out_width - ox;
    if (channel >= op.channels || oy >= op.out_height || left <= 0) continue;
    for (int b = op.first_branch(input); b < op.last_branch(input); ++b) {
      const A* const weights = op.param<T>(op.branch[b].first_tap) + channel;
      A sum[kStrip] = {};
      with_kernel<Tile::kFixed>(op.branch[b], [&](auto kernel) {
        const int margin = op.halo - kernel.pad;
#pragma unroll 1
        for (int ty = 0; ty < kernel.kernel; ++ty)
#pragma unroll 1
          for (int first = 0; first < kernel.kernel; first += kRun)
            slide<kStride>(tile, place.row * kStride + ty * kernel.dilation + margin,
                           place.column * kStride + margin, kernel, first, kernel.kernel - first,
                           [&](int t, auto value) {
                             const A weight =
                                 __ldg(weights + (ty * kernel.kernel + first + t) * op.channels);
#pragma unroll
                             for (int i = 0; i < kStrip; ++i) sum[i] += weight * value(i);
                           });
      });
      T* const y = const_cast<T*>(op.output_plane<T>(b).image(corner.image).at(oy, ox, channel));
#pragma unroll
      for (int i = 0; i < kStrip; ++i)
        if (i < left) y[i * op.channels] = static_cast<T>(sum[i]);
    }
  }
}

// Calls tap(t, each) for tap first + t of a row of the kernel, t < count, where each(i, use) calls
// use(gradient) with that of the output to which pixel `column` + i of the input comes by this tap,
// `column` a multiple of 8. The tile begins `margin` pixels of the output before the input's.
template <int kStride, class Tile, class Kernel, class Tap>
__device__ void scatter(const Tile& tile, int row, int column, int margin, Kernel kernel, int first,
                        int count, Tap tap) {
  if constexpr (is_fixed<Kernel>) {
    constexpr int kBefore = (Kernel::pad + kStride - 1) / kStride;
    constexpr int kWindow = kBefore + (kStrip - 1 + Kernel::pad) / kStride + 1;
    typename Tile::A window[kWindow];
#pragma unroll
    for (int i = 0; i < kWindow; ++i)
      window[i] = tile(row, column / kStride + margin - kBefore + i);
#pragma unroll
    for (int t = 0; t < Kernel::kernel; ++t)
      tap(t, [&](int i, auto use) {
        const int at = i + Kernel::pad - t * Kernel::dilation + kBefore * kStride;
        if (at % kStride == 0) use(window[at / kStride]);
      });
  } else {
#pragma unroll
    for (int t = 0; t < kRun; ++t)
      if (t < count)
        tap(t, [&](int i, auto use) {
          const int at = column + i + kernel.pad - (first + t) * kernel.dilation + margin * kStride;
          if (at % kStride == 0) use(tile(row, at / kStride));
        });
  }
}

// What the backward pass sums over pixels.
template <class A>
struct Sums {
  bool affine;
  int first_tap, taps;  // of an input's, so many
  int64_t rows;
  A* partials;  // [slices, rows, channels]
};

// A warp's sums for taps of its channels, in shared memory behind the tile.
template <class A>
struct TapSums {
  int first, count, distance;
  A* own;

  __device__ TapSums(const Sums<A>& sums, size_t tile_bytes)
      : first(sums.first_tap),
        count(sums.taps),
        distance(blockDim.x / kWarp * kChannels),
        own(reinterpret_cast<A*>(shared_memory<char>() + tile_bytes) +
            threadIdx.x / kWarp * kChannels + threadIdx.x % kChannels) {
    for (int t = 0; t < count; ++t) own[t * distance] = 0;
  }
  static size_t bytes(int taps, int threads) {
    return sizeof(A) * taps * (threads / kWarp) * kChannels;
  }

  // Takes the sums of tap, tap + 1 and so on from all lanes, two of which have the same channel.
  template <int kCount>
  __device__ void add(int tap, int some, const A (&values)[kCount]) {
#pragma unroll
    for (int t = 0; t < kCount; ++t) {
      if (t >= some) break;
      const A both = values[t] + __shfl_xor_sync(kAllLanes, values[t], kChannels);
      const int to = tap + t - first;
      if (threadIdx.x % kWarp < kChannels && to >= 0 && to < count) own[to * distance] += both;
    }
  }

  // The sum of all warps, for a tap from the first on and one of the channels.
  __device__ A total(int tap, int channel) const {
    const A* const of_tap =
        own - threadIdx.x / kWarp * kChannels - threadIdx.x % kChannels + tap * distance + channel;
    A sum = 0;
    for (int warp = 0; warp < distance; warp += kChannels) sum += of_tap[warp];
    return sum;
  }
};

// Of one tap, what the sum over a strip is without the zeros beyond the image, which a value that
// is not finite must not meet. value(i) is that of pixel `column` + i of the input.
template <int kStride, class Tile, class Value>
__device__ typename Tile::A met_inside(const Tile& tile, int row, int column, int64_t tile_left,
                                       int64_t out_width, int left, Value value) {
  typename Tile::A sum = 0;
#pragma unroll 1
  for (int i = 0; i < left; ++i) {
    const int at = column + i;
    const int64_t x = tile_left + at / kStride;
    if (at % kStride == 0 && x >= 0 && x < out_width) sum += value(i) * tile(row, at / kStride);
  }
  return sum;
}

// grad_x = scale g_u, and this slice's sums of g_u x and g_u, g_u = g_v where u > 0, and of dL/dw.
template <class T, int kStride, class Tile, bool kWeights>
__global__ void __launch_bounds__(kThreads, kWeights ? kBlocksOfSums : kBlocksPerMultiprocessor)
    multi_depthwise_bwd_kernel(const __grid_constant__ Convolution op, Sums<Acc<T>> sums) {
  using A = Acc<T>;
  Work work(op, op.height, op.width);
  const Place place;
  const int input = static_cast<int>(work.task);
  T* const grad_x = static_cast<T*>(op.grad_x[input]);
  if (!grad_x && !sums.affine && !kWeights) return;
  const int64_t channel = work.first_channel + place.channel;
  const Plane<T> x = op.input_plane<T>(input);
  const Activation<A> activation = x.activation(channel);
  const int margin = grad_margin<kStride>(op);
  const Extent extent = grad_extent<kStride>(op);
  const int first_tap = op.branch[op.first_branch(input)].first_tap;
  Tile tile(extent);
  TapSums<A> tap_sums(sums, Tile::bytes(extent));
  A sum_scale = 0, sum_shift = 0;
  for (; work.unit < work.last_unit; ++work.unit) {
    const Corner corner = work.corner();
    const int64_t iy = corner.top + place.row, ix = corner.left + place.column;
    const int left = static_cast<int>(op.width - ix < kStrip ? op.width - ix : kStrip);
    const bool present = channel < op.channels && iy < op.height && left > 0;
    const T* const from = present ? x.image(corner.image).at(iy, ix, channel) : x.data;
    const auto value_at = [&](int i) {
      return activation(static_cast<A>(__ldg(from + i * op.channels)));
    };
    A value[kStrip] = {}, sum[kStrip] = {};
    bool odd = false;  // whether a value is not finite
    if constexpr (kWeights) {
      A zero = 0;
#pragma unroll
      for (int i = 0; i < kStrip; ++i) {
        if (present && i < left) value[i] = value_at(i);
        zero += value[i] * 0;
      }
      odd = zero != 0;
#pragma unroll
      for (int i = 0; i < kStrip; ++i)
        if (odd) value[i] = 0;
    }
    for (int b = op.first_branch(input); b < op.last_branch(input); ++b) {
      if (!op.branch[b].output) continue;
      tile.read(op.output_plane<T>(b).image(corner.image), corner.top / kStride - margin,
                corner.left / kStride - margin, work.first_channel);
      const A* const weights = op.param<T>(op.branch[b].first_tap) + channel;
      const int first_of_branch = op.branch[b].first_tap - first_tap;
      with_kernel<Tile::kFixed>(op.branch[b], [&](auto kernel) {
#pragma unroll 1
        for (int ty = 0; ty < kernel.kernel; ++ty) {
          const int at = place.row + kernel.pad - ty * kernel.dilation + margin * kStride;
#pragma unroll 1
          for (int first = 0; first < kernel.kernel; first += kRun) {
            const int count = kernel.kernel - first < kRun ? kernel.kernel - first : kRun;
            const int tap = ty * kernel.kernel + first;
            A of_taps[kRun] = {};
            if (present && at % kStride == 0)
              scatter<kStride>(tile, at / kStride, place.column, margin, kernel, first, count,
                               [&](int t, auto each) {
                                 const A weight = __ldg(weights + (tap + t) * op.channels);
#pragma unroll
                                 for (int i = 0; i < kStrip; ++i)
                                   each(i, [&](A grad) {
                                     sum[i] += weight * grad;
                                     if (kWeights && i < left) of_taps[t] += value[i] * grad;
                                   });
                               });
            if constexpr (kWeights) tap_sums.add(first_of_branch + tap, count, of_taps);
          }
        }
      });
      if constexpr (kWeights) {
        if (warp_sum(odd ? 1 : 0) == 0) continue;
        const Branch branch = op.branch[b];
#pragma unroll 1
        for (int tap = 0; tap < branch.kernel * branch.kernel; ++tap) {
          const auto shift = [&](int t) { return branch.pad - t * branch.dilation; };
          const int at = place.row + shift(tap / branch.kernel) + margin * kStride;
          const int column = place.column + shift(tap % branch.kernel) + margin * kStride;
          const int64_t y = corner.top / kStride - margin + at / kStride;
          A of_tap[1] = {};
          if (odd && at % kStride == 0 && y >= 0 && y < op.out_height)
            of_tap[0] =
                met_inside<kStride>(tile, at / kStride, column, corner.left / kStride - margin,
                                    op.out_width, left, value_at);
          tap_sums.add(first_of_branch + tap, 1, of_tap);
        }
      }
    }
    if (!present) continue;
#pragma unroll
    for (int i = 0; i < kStrip; ++i) {
      if (i >= left) continue;
      A grad = sum[i];
      if (op.relu || sums.affine) {
        const A x_i = static_cast<A>(__ldg(from + i * op.channels));
        if (!activation.passes(x_i)) grad = 0;
        sum_scale += grad * x_i;
        sum_shift += grad;
      }
      if (grad_x) grad_x[from - x.data + i * op.channels] = static_cast<T>(activation.scale * grad);
    }
  }

  A* const rows = sums.partials + work.slice * sums.rows * op.channels;
  if constexpr (kWeights) {
    __syncthreads();
    for (int i = threadIdx.x; i < sums.taps * kChannels; i += blockDim.x) {
      const int tap = sums.first_tap + i / kChannels;
      const int64_t to = work.first_channel + i % kChannels;
      const int taps = op.last_tap(input) - first_tap;
      if (tap < taps && to < op.channels)
        rows[(first_tap + tap) * op.channels + to] = tap_sums.total(i / kChannels, i % kChannels);
    }
  }
  if (!sums.affine) return;

  __shared__ A of_affine[2][kThreads];
  of_affine[0][threadIdx.x] = sum_scale;
  of_affine[1][threadIdx.x] = sum_shift;
  __syncthreads();
  if (threadIdx.x >= kChannels || channel >= op.channels) return;
  for (int t = threadIdx.x + kChannels; t < blockDim.x; t += kChannels) {
    sum_scale += of_affine[0][t];
    sum_shift += of_affine[1][t];
  }
  rows[(op.taps + input) * op.channels + channel] = sum_scale;
  rows[(op.taps + op.inputs + input) * op.channels + channel] = sum_shift;
}

// sums: the partial sums of all slices in an order that their number fixes; 0 in elements that are
// not wanted, before `first` and from `last` on.
template <class A>
__global__ void __launch_bounds__(kReduceColumns* kReduceParts)
    multi_depthwise_reduce_kernel(const A* partials, int64_t slices, int64_t elements,
                                  int64_t first, int64_t last, A* sums) {
  __shared__ double parts[kReduceParts][kReduceColumns];
  const int column = threadIdx.x % kReduceColumns, part = threadIdx.x / kReduceColumns;
  const int64_t element = int64_t{blockIdx.x} * kReduceColumns + column;
  const bool wanted = element >= first && element < last;
  double sum = 0;
  if (wanted)
    for (int64_t slice = part; slice < slices; slice += kReduceParts)
      sum += partials[slice * elements + element];
  parts[part][column] = sum;
  __syncthreads();
  if (part || element >= elements) return;
  for (int p = 1; p < kReduceParts; ++p) sum += parts[p][column];
  sums[element] = static_cast<A>(sum);
}

Convolution convolution(const MultiDepthwise& op) {
  Convolution result = {};
  result.images = op.images, result.channels = op.channels;
  result.height = op.height, result.width = op.width;
  result.out_height = (op.height - 1) / op.stride + 1;
  result.out_width = (op.width - 1) / op.stride + 1;
  result.relu = op.relu, result.affine = op.affine;
  result.inputs = op.inputs, result.branches = op.branches;
  result.taps = static_cast<int>(op.taps());
  result.groups = ceil_div(op.channels, kChannels);
  result.params = op.params;
  int first_tap = 0;
  for (int b = 0; b < op.branches; ++b) {
    // Beyond the image, all distances are alike.
    const int64_t dilation = std::min(op.dilations[b], std::max(op.height, op.width));
    const int64_t pad = dilation * (op.kernels[b] - 1) / 2;
    if (pad >= kMaxPad)
      throw std::invalid_argument(
          "multi_depthwise: the CUDA kernels take taps less than 2^24 pixels away");
    const int kernel = static_cast<int>(op.kernels[b]);
    result.branch[b] = {kernel, static_cast<int>(dilation), static_cast<int>(pad), first_tap,
                        nullptr};
    result.halo = std::max(result.halo, static_cast<int>(pad));
    first_tap += kernel * kernel;
  }
  for (int i = 0; i < op.inputs; ++i) result.x[i] = op.x[i];
  return result;
}

template <class Tile>
struct Type {
  using type = Tile;
};

int threads(const Convolution& op) { return kChannels * kTileRows * op.strips; }

// Calls launch(Type<Tile>, bytes): a tile in shared memory, as wide as the tensor needs and the
// memory allows, or else one that is read from the image. extent() is that of the tile, and more()
// the memory that is needed besides.
template <class T, class GetExtent, class GetMore, class Launch>
void with_tile(Convolution& op, int64_t width, GetExtent extent, GetMore more, Launch launch) {
  const int wide = width > kStrip ? kMaxStrips : 1;
  // float64 is for checks, and not worth the code.
  if constexpr (!std::is_same_v<T, double>) {
    constexpr size_t kStatic = 2 * sizeof(float) * kThreads;
    for (op.strips = wide; op.strips; --op.strips) {
      const size_t bytes = SharedTile<T>::bytes(extent()) + more();
      if (bytes + kStatic <= shared_limit()) return launch(Type<SharedTile<T>>{}, bytes);
    }
  }
  op.strips = wide;
  launch(Type<DirectTile<T>>{}, more());
}

template <class Body>
void with_stride(int stride, Body body) {
  if (stride == 1)
    body(std::integral_constant<int, 1>{});
  else
    body(std::integral_constant<int, 2>{});
}

// Of `tasks` that do not sum over slices, each block has one tile if there may be so many.
int64_t free_slices(const Convolution& op, int64_t height, int64_t width, int64_t tasks) {
  const int64_t units =
      op.images * ceil_div(height, kTileRows) * ceil_div(width, kStrip * op.strips);
  return std::clamp<int64_t>(units, 1, std::max<int64_t>(kMaxBlocks / (tasks * op.groups), 1));
}

template <class T, int kStride>
void forward(Convolution op, Stream stream) {
  with_tile<T>(
      op, op.out_width, [&] { return input_extent<kStride>(op); }, [] { return size_t{0}; },
      [&](auto tile, size_t bytes) {
        using Tile = typename decltype(tile)::type;
        op.slices = free_slices(op, op.out_height, op.out_width, op.inputs);
        launch_kernel("multi_depthwise_fwd_kernel", multi_depthwise_fwd_kernel<T, kStride, Tile>,
                      op.slices * op.groups * op.inputs, threads(op), bytes, stream, op);
      });
}

// Gradients of weights are summed up where kWeights, of as many taps as `sums` says.
template <class T, int kStride, bool kWeights>
void backward(Convolution op, int64_t slices, Sums<Acc<T>> sums, Stream stream) {
  with_tile<T>(
      op, op.width, [&] { return grad_extent<kStride>(op); },
      [&] { return TapSums<Acc<T>>::bytes(sums.taps, threads(op)); },
      [&](auto tile, size_t bytes) {
        using Tile = typename decltype(tile)::type;
        const bool summed = kWeights || sums.affine;
        op.slices = summed ? slices : free_slices(op, op.height, op.width, op.inputs);
        launch_kernel("multi_depthwise_bwd_kernel",
                      multi_depthwise_bwd_kernel<T, kStride, Tile, kWeights>,
                      op.slices * op.groups * op.inputs, threads(op), bytes, stream, op, sums);
      });
}

// So many taps as fit at a time; the first time, all other gradients too.
template <class T, int kStride>
void backward_with_weights(Convolution op, int64_t slices, Sums<Acc<T>> sums, Stream stream) {
  const int most = static_cast<int>(kMaxTapBytes / TapSums<Acc<T>>::bytes(1, kThreads));
  int taps = 0;  // of an input
  for (int i = 0; i < op.inputs; ++i)
    taps = std::max(taps, op.last_tap(i) - (i ? op.last_tap(i - 1) : 0));
  for (; sums.first_tap < taps; sums.first_tap += most) {
    sums.taps = std::min(most, taps - sums.first_tap);
    backward<T, kStride, true>(op, slices, sums, stream);
    for (void*& grad_x : op.grad_x) grad_x = nullptr;
    sums.affine = false;
  }
}

}  // namespace

DepthwiseWorkspace multi_depthwise_workspace(const MultiDepthwise& op) {
  const int64_t tiles = op.images * ceil_div(op.height, kTileRows) * ceil_div(op.width, kStrip);
  return {std::clamp<int64_t>(tiles, 1, kMaxSlices), 0};
}

void multi_depthwise_forward(const MultiDepthwiseForward& args, Stream stream) {
  if (!args.op.images) return;
  Convolution op = convolution(args.op);
  for (int b = 0; b < op.branches; ++b) op.branch[b].output = args.y[b];
  with_element(args.op.dtype, [&](auto zero) {
    with_stride(args.op.stride,
                [&](auto stride) { forward<decltype(zero), decltype(stride)::value>(op, stream); });
  });
}

void multi_depthwise_backward(const MultiDepthwiseBackward& args, Stream stream) {
  Convolution op = convolution(args.op);
  bool need_x = args.need_affine;
  for (int b = 0; b < op.branches; ++b) op.branch[b].output = const_cast<void*>(args.grad[b]);
  for (int i = 0; i < op.inputs; ++i) need_x |= (op.grad_x[i] = args.grad_x[i]) != nullptr;
  const int64_t slices = multi_depthwise_workspace(args.op).slices, rows = args.op.rows();
  with_element(args.op.dtype, [&](auto zero) {
    using T = decltype(zero);
    Acc<T>* const partials = static_cast<Acc<T>*>(args.partials);
    const Sums<Acc<T>> sums{args.need_affine, 0, 0, rows, partials};
    with_stride(args.op.stride, [&](auto stride) {
      constexpr int kStride = decltype(stride)::value;
      if (args.need_weights)
        backward_with_weights<T, kStride>(op, slices, sums, stream);
      else if (need_x)
        backward<T, kStride, false>(op, slices, sums, stream);
    });
    if (!args.grad_params || (!args.need_weights && !args.need_affine)) return;
    const int64_t elements = rows * op.channels, taps = op.taps * op.channels;
    launch_kernel("multi_depthwise_reduce_kernel", multi_depthwise_reduce_kernel<Acc<T>>,
                  ceil_div(elements, kReduceColumns), kReduceColumns * kReduceParts, 0, stream,
                  partials, slices, elements, args.need_weights ? int64_t{0} : taps,
                  args.need_affine ? elements : taps, static_cast<Acc<T>*>(args.grad_params));
  });
}

}  // namespace asose::cuda
