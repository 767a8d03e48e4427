// A weighted sum of two terms, the first of which is normalised: the kernels of those, in a row.
#include "../norm_lerp.h"

#include <cstdint>

#include "measured_norm.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

template <class T>
void forward(const NormLerpForward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const Acc gain = *static_cast<const Acc*>(args.gain), weights[] = {gain, 1 - gain};
  const void* const inputs[] = {args.z, args.shortcut};
  measure<T>(args.dtype, args.space, args.z, args.norm, args.partials, args.statistics, args.mean,
             args.rstd, threads);
  mixed_norm_sum_forward({args.dtype,
                          args.space,
                          2,
                          inputs,
                          weights,
                          {1, args.gamma, args.beta, args.mean, args.rstd},
                          args.tables,
                          args.y},
                         threads);
}

template <class T>
void backward(const NormLerpBackward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const int64_t channels = args.space.channels;
  const Acc gain = *static_cast<const Acc*>(args.gain), weights[] = {gain, 1 - gain};
  const void* const inputs[] = {args.z, args.shortcut};
  void* const grads[] = {args.grad_z, args.grad_shortcut};
  const int of_batch = args.of_batch;
  mixed_norm_sum_backward({args.dtype,
                           args.space,
                           2,
                           inputs,
                           args.grad,
                           weights,
                           {1, args.gamma, args.beta, args.mean, args.rstd},
                           &of_batch,
                           args.partials,
                           args.sums,
                           args.tables,
                           grads},
                          threads);
  if (!args.sums) return;
  const double *s0 = args.sums, *s1 = s0 + channels, *of_shortcut = s1 + channels;
  if (args.grad_gain) {
    double sum = 0;
    for (int64_t c = 0; c < channels; ++c) {
      sum += args.gamma ? args.gamma[c] * s1[c] : s1[c];
      if (args.beta) sum += args.beta[c] * s0[c];
      sum -= of_shortcut[c];
    }
    *static_cast<Acc*>(args.grad_gain) = static_cast<Acc>(sum);
  }
  if (args.grad_gamma)
    for (int64_t c = 0; c < channels; ++c) args.grad_gamma[c] = gain == 0 ? 0 : gain * s1[c];
  if (args.grad_beta)
    for (int64_t c = 0; c < channels; ++c) args.grad_beta[c] = gain * s0[c];
}

}  // namespace

void norm_lerp_forward(const NormLerpForward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void norm_lerp_backward(const NormLerpBackward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
