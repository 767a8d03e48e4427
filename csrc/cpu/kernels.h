// The CPU kernels of one instruction set, and the choice among those that were built.
#pragma once

#include "../arch_weights.h"
#include "../batch_statistics.h"
#include "../line_conv.h"
#include "../mixed_norm_sum.h"
#include "../mixed_sum.h"
#include "../multi_depthwise.h"
#include "../pool_pair.h"
#include "../separable.h"

namespace asose::cpu {

struct Kernels {
  const char* isa;
  void (*arch_weights_forward)(const ArchWeightsForward&);
  void (*arch_weights_backward)(const ArchWeightsBackward&);
  void (*mixed_sum_forward)(const MixedSumForward&);
  void (*mixed_sum_backward)(const MixedSumBackward&);
  void (*multi_depthwise_forward)(const MultiDepthwiseForward&);
  void (*multi_depthwise_backward)(const MultiDepthwiseBackward&);
  void (*pool_pair_forward)(const PoolPairForward&);
  void (*pool_pair_backward)(const PoolPairBackward&);
  void (*batch_statistics)(const BatchStatistics&);
  void (*mixed_norm_sum_forward)(const MixedNormSumForward&);
  void (*mixed_norm_sum_backward)(const MixedNormSumBackward&);
  void (*separable_forward)(const SeparableForward&);
  void (*separable_backward)(const SeparableBackward&);
  void (*line_conv_forward)(const LineConvForward&);
  void (*line_conv_backward)(const LineConvBackward&);
};

// Chosen at the first call: the widest instruction set that this processor runs, or the one that
// ASOSE_ISA names. Throws std::runtime_error where that one was not built or cannot run here.
const Kernels& kernels();

}  // namespace asose::cpu
