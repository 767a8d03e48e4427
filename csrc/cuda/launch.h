// Launches of the CUDA kernels: asynchronous on `stream`, on the device that is current. They
// neither allocate nor synchronize, so that CUDA graphs can capture them, and throw
// std::runtime_error with CUDA's own text.
#pragma once

#include "../arch_weights.h"
#include "../mixed_sum.h"
#include "../multi_depthwise.h"

struct CUstream_st;

namespace asose::cuda {

using Stream = CUstream_st*;

// Throws where the driver is too old for the kernels, or they were not built for the current
// device.
void check_device();

void arch_weights_forward(const ArchWeightsForward&, Stream stream);
void arch_weights_backward(const ArchWeightsBackward&, Stream stream);

// Rows of MixedSumBackward::partials: a function of the shape alone, so that sums depend on nothing
// else.
int64_t mixed_sum_tasks(const IterationSpace& space);
void mixed_sum_forward(const MixedSumForward&, Stream stream);
void mixed_sum_backward(const MixedSumBackward&, Stream stream);

// Slices of MultiDepthwiseBackward::partials, by the shape alone. There is no scratch.
int64_t multi_depthwise_slices(const MultiDepthwise& op);
void multi_depthwise_forward(const MultiDepthwiseForward&, Stream stream);
void multi_depthwise_backward(const MultiDepthwiseBackward&, Stream stream);

}  // namespace asose::cuda
