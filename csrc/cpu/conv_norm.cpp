// The kernels of a convolution and of its norm, in a row.
#include "../conv_norm.h"

#include <algorithm>
#include <cstdint>

#include "../norm_lerp.h"
#include "../norm_pool.h"

namespace asose::cpu::ASOSE_ISA {

void conv_norm_forward(const ConvNormForward& args, int threads) {
  const ConvNorm& op = args.op;
  const DType dtype = op.conv.dtype;
  const ConvNormForwardRoom room(op, threads, args.workspace);
  dense_conv_forward({op.conv, args.x, args.weights, room.packed, args.z, room.scratch}, threads);
  const ChannelSpace space = op.space();
  if (op.blend)
    norm_lerp_forward(
        {dtype, space, args.z, args.shortcut, args.gain, args.norm, args.gamma, args.beta,
         room.partials, room.statistics, args.mean, args.rstd, room.tables, args.y},
        threads);
  else
    norm_pool_forward({dtype, space, op.pooling(), args.z, args.norm, args.gamma, args.beta,
                       room.partials, room.statistics, args.mean, args.rstd, room.tables, args.y},
                      threads);
}

void conv_norm_backward(const ConvNormBackward& args, int threads) {
  const ConvNorm& op = args.op;
  const DType dtype = op.conv.dtype;
  const ConvNormBackwardRoom room(op, threads, args.workspace);
  const bool need_z = args.grad_x || args.grad_weights.data;
  const bool need_sums =
      args.grad_gamma || args.grad_beta || args.grad_gain || (args.of_batch && need_z);
  double* const sums = need_sums ? room.sums : nullptr;
  void* const grad_z = need_z ? room.grad_z : nullptr;
  if (op.blend) {
    norm_lerp_backward(
        {dtype, op.space(), need_sums ? args.z : nullptr, args.grad_gain ? args.shortcut : nullptr,
         args.grad, args.gain, args.gamma, args.beta, args.mean, args.rstd, args.of_batch,
         room.partials, sums, room.tables, grad_z, args.grad_shortcut, args.grad_gain,
         args.grad_gamma, args.grad_beta},
        threads);
  } else {
    norm_pool_backward(
        {dtype, op.space(), op.pooling(), args.z, args.grad, args.gamma, args.beta, args.mean,
         args.rstd, args.of_batch, room.partials, sums, room.tables, grad_z},
        threads);
    const int64_t channels = op.conv.out_channels;
    if (args.grad_beta) std::copy_n(sums, channels, args.grad_beta);
    if (args.grad_gamma) std::copy_n(sums + channels, channels, args.grad_gamma);
  }
  if (need_z)
    dense_conv_backward({op.conv, grad_z, args.x, args.weights, room.packed, args.grad_x,
                         room.conv_partials, args.grad_weights, room.scratch},
                        threads);
}

}  // namespace asose::cpu::ASOSE_ISA
