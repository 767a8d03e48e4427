#include "check.cuh"
#include "check_device.h"

namespace asose::cuda {
namespace {

__global__ void probe_kernel() {}

}  // namespace

void check_device() {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, probe_kernel), "the device");
}

}  // namespace asose::cuda
