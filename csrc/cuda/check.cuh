// Turns CUDA's errors into exceptions.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace asose::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace asose::cuda
