// Built once per instruction set: fills the table of that set's kernels.
#include "kernels.h"

#define ASOSE_QUOTE(name) #name
#define ASOSE_NAME(name) ASOSE_QUOTE(name)

namespace asose::cpu::ASOSE_ISA {

void arch_weights_forward(const ArchWeightsForward&);
void arch_weights_backward(const ArchWeightsBackward&);
void mixed_sum_forward(const MixedSumForward&);
void mixed_sum_backward(const MixedSumBackward&);
void multi_depthwise_forward(const MultiDepthwiseForward&);
void multi_depthwise_backward(const MultiDepthwiseBackward&);
void pool_pair_forward(const PoolPairForward&);
void pool_pair_backward(const PoolPairBackward&);
void batch_statistics(const BatchStatistics&);
void mixed_norm_sum_forward(const MixedNormSumForward&);

void mixed_norm_sum_backward(const MixedNormSumBackward&);
void separable_forward(const SeparableForward&);
void separable_backward(const SeparableBackward&);
void line_conv_forward(const LineConvForward&);
void line_conv_backward(const LineConvBackward&);

extern const Kernels table;
const Kernels table = {
    ASOSE_NAME(ASOSE_ISA),    arch_weights_forward,   arch_weights_backward,
    mixed_sum_forward,        mixed_sum_backward,     multi_depthwise_forward,
    multi_depthwise_backward, pool_pair_forward,      pool_pair_backward,
    batch_statistics,         mixed_norm_sum_forward, mixed_norm_sum_backward,
    separable_forward,        separable_backward,     line_conv_forward,
    line_conv_backward,
};

}  // namespace asose::cpu::ASOSE_ISA
