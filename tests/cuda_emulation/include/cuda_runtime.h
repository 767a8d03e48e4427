// As much of CUDA's language and runtime as the kernels use, in plain C++: the blocks of a launch
// run one after the other, the threads of a block as fibers that switch at barriers (emulator.cpp).
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
// Implicitly static in a function, and allowed beside `extern`, which dynamic shared memory needs.
#define __shared__ thread_local

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

extern dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulation {

constexpr int kWarp = 32;
constexpr size_t kMaxShared = 99 * 1024;  // what a block may ask for on sm_86 and sm_89

void block_barrier();
void warp_barrier();
uint64_t& warp_slot(unsigned lane);  // of the calling thread's warp
void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()>& thread);

}  // namespace emulation

inline void __syncthreads() { emulation::block_barrier(); }

template <class T>
T __ldg(const T* at) {
  return *at;
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  const unsigned lane = threadIdx.x % emulation::kWarp;
  std::memcpy(&emulation::warp_slot(lane), &value, sizeof value);
  emulation::warp_barrier();
  T result;
  std::memcpy(&result, &emulation::warp_slot(lane ^ mask), sizeof result);
  emulation::warp_barrier();
  return result;
}

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
struct cudaFuncAttributes {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = emulation::kMaxShared;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return static_cast<size_t>(bytes) <= emulation::kMaxShared ? cudaSuccess : cudaErrorInvalidValue;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const dim3 &grid = config->gridDim, &block = config->blockDim;
  const bool valid = grid.x >= 1 && grid.x <= 0x7fffffffu && grid.y == 1 && grid.z == 1 &&
                     block.x >= 1 && block.x <= 1024 && block.y == 1 && block.z == 1 &&
                     config->dynamicSmemBytes <= emulation::kMaxShared;
  if (!valid) return cudaErrorInvalidValue;
  emulation::launch(grid, block, config->dynamicSmemBytes, [&] { kernel(arguments...); });
  return cudaSuccess;
}
