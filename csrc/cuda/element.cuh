// Element types on the device, and their access in packs of up to 16 bytes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <stdexcept>

#include "../dtype.h"

namespace asose::cuda {

// The type that sums of T are kept in.
template <class T>
struct Accumulator {
  using Type = float;
};
template <>
struct Accumulator<double> {
  using Type = double;
};
template <class T>
using Acc = typename Accumulator<T>::Type;

template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Pack {
  T value[kCount];

  __device__ Acc<T> operator[](int i) const { return static_cast<Acc<T>>(value[i]); }
  __device__ void set(int i, Acc<T> wide) { value[i] = static_cast<T>(wide); }
};

// The first `left` elements from `at` on, then zeros. A whole pack must be aligned. The memory must
// be constant while the kernel runs, which lets loads move ahead of stores.
template <int kCount, class T>
__device__ __forceinline__ Pack<T, kCount> load(const T* at, int64_t left) {
  Pack<T, kCount> pack;
  if constexpr (kCount > 1) {
    static_assert(sizeof pack == sizeof(uint4));
    if (left >= kCount) {
      const uint4 words = __ldg(reinterpret_cast<const uint4*>(at));
      return reinterpret_cast<const Pack<T, kCount>&>(words);
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.value[i] = i < left ? __ldg(at + i) : static_cast<T>(0.0f);
  return pack;
}

// Writes the first `left` elements.
template <int kCount, class T>
__device__ __forceinline__ void store(const Pack<T, kCount>& pack, T* at, int64_t left) {
  if (left >= kCount) {
    *reinterpret_cast<Pack<T, kCount>*>(at) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (i < left) at[i] = pack.value[i];
}

// Calls body with a value of the element type that `dtype` names: float or double.
template <class Body>
void with_wide_element(DType dtype, Body body) {
  if (dtype == DType::f32) return body(float{});
  if (dtype == DType::f64) return body(double{});
  throw std::invalid_argument("this CUDA kernel is not for this element type");
}

// The type may be one of the narrow ones too.
template <class Body>
void with_element(DType dtype, Body body) {
  if (dtype == DType::bf16) return body(__nv_bfloat16{});
  if (dtype == DType::f16) return body(__half{});
  with_wide_element(dtype, body);
}

}  // namespace asose::cuda
