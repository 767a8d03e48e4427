// The kernels of a convolution and of its norm, in a row.
#include "../conv_norm.h"

#include <algorithm>
#include <cstdint>

#include "../norm_lerp.h"
#include "../norm_pool.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

bool is_zero(DType accumulated, const void* value) {
  return accumulated == DType::f64 ? *static_cast<const double*>(value) == 0
                                   : *static_cast<const float*>(value) == 0;
}

}  // namespace

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
  if (op.blend) {
    norm_lerp_backward(
        {dtype, op.space(), need_sums ? args.z : nullptr, args.grad_gain ? args.shortcut : nullptr,
         args.grad, args.gain, args.gamma, args.beta, args.mean, args.rstd, args.of_batch,
         room.partials, sums, room.tables, nullptr, args.grad_shortcut, args.grad_gain,
         args.grad_gamma, args.grad_beta},
        threads);
  } else {
    norm_pool_backward(
        {dtype, op.space(), op.pooling(), args.z, args.grad, args.gamma, args.beta, args.mean,
         args.rstd, args.of_batch, room.partials, sums, room.tables, nullptr},
        threads);
    const int64_t channels = op.conv.out_channels;
    if (args.grad_beta) std::copy_n(sums, channels, args.grad_beta);
    if (args.grad_gamma) std::copy_n(sums + channels, channels, args.grad_gamma);
  }
  if (!need_z) return;
  const bool dead = op.blend && is_zero(dtype, args.gain);
  const OutputNorm norm{args.z, room.tables, op.pooling(), args.of_batch, dead};
  dense_conv_backward({op.conv, args.grad, &norm, args.x, args.weights, room.packed, args.grad_x,
                       room.conv_partials, args.grad_weights, room.scratch},
                      threads);
}

}  // namespace asose::cpu::ASOSE_ISA
