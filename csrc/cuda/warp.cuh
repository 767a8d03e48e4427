// Sums over the lanes of a warp.
#pragma once

namespace asose::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Every lane gets the same bits: the order of the sum is fixed.
template <class T>
__device__ T warp_sum(T value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

}  // namespace asose::cuda
