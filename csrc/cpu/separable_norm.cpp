// The kernels of the stages and of the norms, in a row.
#include "../separable_norm.h"

#include <algorithm>
#include <cstdint>

#include "../mixed_norm_sum.h"
#include "../norm_lerp.h"
#include "../norm_pool.h"
#include "../stage.h"
#include "element.h"
#include "measured_norm.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

DType wide(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// The norm before stage s, which is none for the first.
StageNorms norm_before(int s, const double* tables, const double* const* gamma,
                       const double* const* beta, int64_t channels) {
  if (!s) return {0, nullptr, nullptr, nullptr, nullptr};
  const double* mean = tables + 2 * (s - 1) * channels;
  return {1, mean, mean + channels, gamma[s - 1], beta[s - 1]};
}

template <class T>
void forward(const SeparableNormForward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const SeparableNorm& op = args.op;
  const SeparableNormForwardRoom room(op, threads, args.workspace);
  const int64_t channels = op.channels;
  double *batch_mean = room.statistics, *batch_var = room.statistics + channels;
  for (int s = 0; s < op.stages; ++s) {
    const void* input = s ? args.z[s - 1] : args.x;
    MultiDepthwise depthwise = op.depthwise(s);
    depthwise.x = &input, depthwise.params = room.params, depthwise.scratch = room.scratch;
    RunningNorm norm = args.norms[s];
    stage_forward(
        {{wide(op.dtype), 1, channels, args.depthwise + s, args.pointwise + s,
          norm_before(s, args.tables, args.gamma, args.beta, channels), room.params, room.matrices},
         {{depthwise, room.matrices, room.blocked},
          args.z + s,
          norm.of_batch ? room.partials : nullptr,
          batch_mean,
          batch_var}},
        threads);
    norm.batch_mean = batch_mean, norm.batch_var = batch_var;
    double* mean = args.tables + 2 * s * channels;
    norm_tables({wide(op.dtype), 1, channels, &norm, unbiased(op.space()), mean, mean + channels},
                threads);
  }
  const int last = op.stages - 1;
  const double* mean = args.tables + 2 * last * channels;
  const Acc gain = args.gain ? *static_cast<const Acc*>(args.gain) : 1;
  const Acc weights[] = {gain, 1 - gain};
  const void* const inputs[] = {args.z[last], args.shortcut};
  mixed_norm_sum_forward({op.dtype,
                          op.space(),
                          args.gain ? 2 : 1,
                          inputs,
                          weights,
                          {1, args.gamma[last], args.beta[last], mean, mean + channels},
                          room.tables,
                          args.y},
                         threads);
}

template <class T>
void add_scaled(T* y, const T* x, typename Element<T>::Acc scale, int64_t count, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads)
  for (int64_t i = 0; i < count; ++i)
    y[i] = Element<T>::store(Element<T>::load(y[i]) + scale * Element<T>::load(x[i]));
}

// The backward pass of the last norm: it leaves dL/dz of the last stage as a map of dL/dy in the
// room's tables.
void last_norm(const SeparableNormBackward& args, const SeparableNormBackwardRoom& room,
               bool need_stages, int threads) {
  const SeparableNorm& op = args.op;
  const int last = op.stages - 1;
  const int64_t channels = op.channels;
  const double* mean = args.tables + 2 * last * channels;
  double *grad_gamma = args.grad_gamma[last], *grad_beta = args.grad_beta[last];
  const bool need_sums =
      grad_gamma || grad_beta || args.grad_gain || (args.of_batch[last] && need_stages);
  double* const sums = need_sums ? room.sums : nullptr;
  if (args.gain) {
    norm_lerp_backward(
        {op.dtype, op.space(), need_sums ? args.z[last] : nullptr,
         args.grad_gain ? args.shortcut : nullptr, args.grad, args.gain, args.gamma[last],
         args.beta[last], mean, mean + channels, args.of_batch[last], room.sum_partials, sums,
         room.tables, nullptr, args.grad_shortcut, args.grad_gain, grad_gamma, grad_beta},
        threads);
    return;
  }
  norm_pool_backward({op.dtype,
                      op.space(),
                      {0, 0},
                      args.z[last],
                      args.grad,
                      args.gamma[last],
                      args.beta[last],
                      mean,
                      mean + channels,
                      args.of_batch[last],
                      room.sum_partials,
                      sums,
                      room.tables,
                      nullptr},
                     threads);
  if (grad_beta) std::copy_n(sums, channels, grad_beta);
  if (grad_gamma) std::copy_n(sums + channels, channels, grad_gamma);
}

void stages(const SeparableNormBackward& args, const SeparableNormBackwardRoom& room, int first,
            int threads) {
  const SeparableNorm& op = args.op;
  const int64_t channels = op.channels;
  const void* grad = args.grad;
  for (int s = op.stages - 1; s >= first; --s) {
    const bool end = s == first;
    const void* input = s ? args.z[s - 1] : args.x;
    const void* z = args.of_batch[s] ? args.z[s] : nullptr;
    double* const grad_gamma = s ? args.grad_gamma[s - 1] : nullptr;
    double* const grad_beta = s ? args.grad_beta[s - 1] : nullptr;
    // The input's gradient is that of the norm before, whose sums come with it.
    const bool need_sums = grad_gamma || grad_beta || (s && !end && args.of_batch[s - 1]);
    void* grad_input = s ? room.grads[s % 2 ? 0 : 1] : args.grad_x;
    const bool need_depthwise = args.grad_depthwise[s].data;
    const bool need_pointwise = args.grad_pointwise[s].data;
    const StageNorms before = norm_before(s, args.tables, args.gamma, args.beta, channels);
    MultiDepthwise depthwise = op.depthwise(s);
    depthwise.x = &input, depthwise.params = room.params, depthwise.scratch = room.scratch;
    stage_weights_forward({wide(op.dtype), 1, channels, args.depthwise + s, args.pointwise + s,
                           before, room.params, room.matrices},
                          threads);
    const Separable separable{depthwise, room.matrices, room.blocked};
    const bool used = true;
    stage_backward(
        {{separable, &grad, &z, room.tables, &grad_input, need_depthwise, need_pointwise, need_sums,
          room.partials, room.partials_pointwise, room.grad_params, room.grad_matrices},
         {wide(op.dtype), 1, channels, room.grad_params, room.grad_matrices,
          SeparableTiling(separable).padded_channels, args.grad_depthwise + s,
          args.grad_pointwise + s, before, &used, need_sums,
          static_cast<double>(depthwise.images * depthwise.height * depthwise.width), room.s0,
          room.s1, room.tables}},
        threads);
    if (grad_gamma) std::copy_n(room.s1, channels, grad_gamma);
    if (grad_beta) std::copy_n(room.s0, channels, grad_beta);
    grad = grad_input;
  }
}

// The first stage that a gradient is wanted of or before; none: the number of stages.
int first_wanted(const SeparableNormBackward& args) {
  if (args.grad_x) return 0;
  int s = 0;
  while (s < args.op.stages && !args.grad_depthwise[s].data && !args.grad_pointwise[s].data &&
         !(s && (args.grad_gamma[s - 1] || args.grad_beta[s - 1])))
    ++s;
  return s;
}

template <class T>
void backward(const SeparableNormBackward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const SeparableNorm& op = args.op;
  const SeparableNormBackwardRoom room(op, threads, args.workspace);
  const int first = first_wanted(args);
  last_norm(args, room, first < op.stages, threads);
  const Acc gain = args.gain ? *static_cast<const Acc*>(args.gain) : 1;
  if (gain != 0) stages(args, room, first, threads);
  if (args.grad_x && args.shortcut_is_x)
    add_scaled<T>(static_cast<T*>(args.grad_x), static_cast<const T*>(args.grad), 1 - gain,
                  op.images * op.height * op.width * op.channels, threads);
}

}  // namespace

void separable_norm_forward(const SeparableNormForward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void separable_norm_backward(const SeparableNormBackward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
