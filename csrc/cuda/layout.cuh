// A layout says where the elements of many tensors of one shape lie. It is a kernel parameter,
// passed by value, which needs CUDA 12.1 or later for the largest one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "../mixed_sum.h"

namespace asose::cuda {

struct Operands {
  const Operand* first;
  int count;
};
using OperandList = std::initializer_list<Operands>;

// Tensors that are one dense, 16-byte aligned run each.
template <int kOperands>
struct Dense {
  using Place = int64_t;

  int64_t elements;
  void* data[kOperands];

  Dense(const IterationSpace& space, OperandList tensors) : elements(space.sizes[0]) {
    void** next = data;
    for (const Operands& group : tensors)
      for (int i = 0; i < group.count; ++i) *next++ = group.first[i].data;
  }

  static bool fits(const IterationSpace& space, OperandList tensors) {
    if (space.dims != 1) return false;
    for (const Operands& group : tensors)
      for (int i = 0; i < group.count; ++i)
        if (group.first[i].strides[0] != 1 ||
            reinterpret_cast<uintptr_t>(group.first[i].data) % 16 != 0)
          return false;
    return true;
  }

  __device__ Place place(int64_t index) const { return index; }

  template <class T>
  __device__ T* at(int operand, Place place) const {
    return static_cast<T*>(data[operand]) + place;
  }
};

template <int kOperands, int kDims>
struct Strided {
  struct Place {
    int64_t coordinate[kDims];
  };

  int64_t elements;
  int64_t sizes[kDims];  // padded with ones in front
  void* data[kOperands];
  int64_t strides[kOperands][kDims];

  Strided(const IterationSpace& space, OperandList tensors) : elements(1) {
    const int padding = kDims - space.dims;
    for (int d = 0; d < kDims; ++d)
      elements *= sizes[d] = d < padding ? 1 : space.sizes[d - padding];
    int next = 0;
    for (const Operands& group : tensors)
      for (int i = 0; i < group.count; ++i, ++next) {
        data[next] = group.first[i].data;
        for (int d = 0; d < kDims; ++d)
          strides[next][d] = d < padding ? 0 : group.first[i].strides[d - padding];
      }
  }

  __device__ Place place(int64_t index) const {
    Place result;
#pragma unroll
    for (int d = kDims - 1; d > 0; --d) {
      result.coordinate[d] = index % sizes[d];
      index /= sizes[d];
    }
    result.coordinate[0] = index;
    return result;
  }

  template <class T>
  __device__ T* at(int operand, const Place& place) const {
    int64_t offset = 0;
#pragma unroll
    for (int d = 0; d < kDims; ++d) offset += place.coordinate[d] * strides[operand][d];
    return static_cast<T*>(data[operand]) + offset;
  }
};

}  // namespace asose::cuda
