// Images as the depthwise kernels read them: a tile of 16 channels with the activation applied and
// zeros around the image, kept in shared memory or, where it does not fit, read from the image.
#pragma once

#include <cstdint>

#include "element.cuh"
#include "kernel_launch.cuh"

namespace asose::cuda {

// A warp has the same channels of two neighbouring rows.
constexpr int kChannels = 16;

// v = relu(scale x + shift), each part where it is wanted.
template <class A>
struct Activation {
  bool relu = false, affine = false;
  A scale = 1, shift = 0;

  // NaN passes, in both.
  __device__ A operator()(A x) const {
    const A u = affine ? scale * x + shift : x;
    return relu && u <= 0 ? A{0} : u;
  }
  __device__ bool passes(A x) const { return !relu || !(scale * x + shift <= 0); }
};

// An image (height, width, channels) and, where affine, the maps of its channels.
template <class T>
struct Plane {
  using A = Acc<T>;

  const T* data;
  int64_t height, width, channels;
  bool relu, affine;
  const A *scale, *shift;

  __device__ Activation<A> activation(int64_t channel) const {
    if (!affine || channel >= channels) return {relu};
    return {relu, true, __ldg(scale + channel), __ldg(shift + channel)};
  }
  __device__ bool holds(int64_t y, int64_t x) const {
    return y >= 0 && y < height && x >= 0 && x < width;
  }
  __device__ const T* at(int64_t y, int64_t x, int64_t channel) const {
    return data + (y * width + x) * channels + channel;
  }
  __device__ Plane image(int64_t index) const {
    Plane result = *this;
    result.data += index * height * width * channels;
    return result;
  }
};

struct Extent {
  int height, width;
};

// What a thread reads of a tile: the values of one channel, by row and column from the tile's
// first. All threads of a block call `read` together.
template <class T>
struct SharedTile {
  using A = Acc<T>;
  // Kernels of the common sizes are unrolled.
  static constexpr bool kFixed = true;

  int height, width;
  const A* values;

  __device__ explicit SharedTile(Extent extent)
      : height(extent.height),
        width(padded(extent.width)),
        values(shared_memory<A>() + threadIdx.x % kChannels) {}

  // Odd, so that two neighbouring rows lie in different banks.
  __host__ __device__ static int padded(int width) { return width | 1; }
  __host__ __device__ static size_t bytes(Extent extent) {
    return sizeof(A) * kChannels * extent.height * padded(extent.width);
  }

  __device__ void read(const Plane<T>& plane, int64_t top, int64_t left, int64_t first_channel) {
    constexpr int kVector = 16 / sizeof(T), kPacks = kChannels / kVector, kQuad = 4;
    const int first = threadIdx.x % kPacks * kVector;
    const int64_t channel = first_channel + first;
    const int64_t present = plane.channels - channel;
    const bool aligned = plane.channels % kVector == 0 &&
                         reinterpret_cast<uintptr_t>(plane.data) % sizeof(uint4) == 0;
    Activation<A> activations[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) activations[i] = plane.activation(channel + i);

    __syncthreads();
    for (int pixel = threadIdx.x / kPacks; pixel < height * width; pixel += blockDim.x / kPacks) {
      const int64_t y = top + pixel / width, x = left + pixel % width;
      A v[kVector] = {};
      if (plane.holds(y, x) && present > 0) {
        const T* const from = plane.at(y, x, channel);
        if (aligned) {
          const auto pack = load<kVector>(from, kVector);
#pragma unroll
          for (int i = 0; i < kVector; ++i) v[i] = activations[i](pack[i]);
        } else {
#pragma unroll
          for (int i = 0; i < kVector; ++i)
            if (i < present) v[i] = activations[i](static_cast<A>(__ldg(from + i)));
        }
      }
      A* const to = shared_memory<A>() + pixel * kChannels + first;
#pragma unroll
      for (int i = 0; i < kVector; i += kQuad)
        store(Pack<A, kQuad>{{v[i], v[i + 1], v[i + 2], v[i + 3]}}, to + i, kQuad);
    }
    __syncthreads();
  }

  __device__ A operator()(int row, int column) const {
    return values[(row * width + column) * kChannels];
  }
};

template <class T>
struct DirectTile {
  using A = Acc<T>;
  static constexpr bool kFixed = false;

  Plane<T> plane;
  int64_t top, left, channel;
  Activation<A> activation;

  __device__ explicit DirectTile(Extent) {}
  __host__ __device__ static size_t bytes(Extent) { return 0; }

  __device__ void read(const Plane<T>& image, int64_t first_row, int64_t first_column,
                       int64_t first_channel) {
    plane = image, top = first_row, left = first_column;
    channel = first_channel + threadIdx.x % kChannels;
    activation = plane.activation(channel);
  }

  __device__ A operator()(int row, int column) const {
    const int64_t y = top + row, x = left + column;
    if (channel >= plane.channels || !plane.holds(y, x)) return 0;
    return activation(static_cast<A>(__ldg(plane.at(y, x, channel))));
  }
};

}  // namespace asose::cuda
