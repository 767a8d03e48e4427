// Kernels with faults that the emulation must find.
#include <cstdint>

#include "cuda/kernel_launch.cuh"

namespace asose::cuda {
namespace {

// Reverses a block's numbers; without the barrier, some are read before they are written.
__global__ void reverse_kernel(const float* x, float* y, bool barrier) {
  float* const values = shared_memory<float>();
  values[threadIdx.x] = x[threadIdx.x];
  if (barrier) __syncthreads();
  y[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

__global__ void copy_kernel(const float* x, float* y, int from, int to) {
  const int thread = threadIdx.x;
  y[thread + to] = x[thread + from];
}

__global__ void shared_overflow_kernel(float* y) {
  shared_memory<float>()[blockDim.x] = 1;
  y[threadIdx.x] = 0;
}

__global__ void diverging_kernel(float* y) {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    y[threadIdx.x] = __shfl_xor_sync(~0u, 1.0f, 1);
  }
}

}  // namespace
}  // namespace asose::cuda

// The text of the error, or null.
extern "C" __attribute__((visibility("default"))) const char* faulty(const char* name, float* x,
                                                                     float* y, int threads) {
  using namespace asose::cuda;
  static std::string error;
  const std::string kernel = name;
  const size_t shared = sizeof(float) * threads;
  try {
    if (kernel == "barrier" || kernel == "no barrier")
      launch_kernel(name, reverse_kernel, 1, threads, shared, nullptr, x, y, kernel == "barrier");
    else if (kernel == "read after" || kernel == "read before")
      launch_kernel(name, copy_kernel, 1, threads, 0, nullptr, x, y,
                    kernel == "read after" ? 1 : -1, 0);
    else if (kernel == "write after")
      launch_kernel(name, copy_kernel, 1, threads, 0, nullptr, x, y, 0, 1);
    else if (kernel == "shared")
      launch_kernel(name, shared_overflow_kernel, 1, threads, shared, nullptr, y);
    else if (kernel == "diverging")
      launch_kernel(name, diverging_kernel, 1, threads, 0, nullptr, y);
    else
      return "no such kernel";
  } catch (const std::exception& caught) {
    error = caught.what();
    return error.c_str();
  }
  return nullptr;
}
