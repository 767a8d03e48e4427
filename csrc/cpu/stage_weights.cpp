// A few thousand values at most: one thread.
#include "../stage_weights.h"

#include <cstdint>

#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Calls body(channel, column, element) for all elements of a weight.
template <class T, class Body>
void for_elements(const StridedWeight& weight, int64_t channels, const Body& body) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t column = 0; column < weight.columns; ++column) {
      const int64_t i = column / weight.side, j = column % weight.side;
      body(c, column,
           static_cast<T*>(
               weight.data)[c * weight.strides[0] + i * weight.strides[1] + j * weight.strides[2]]);
    }
}

double scale_of(const StageNorms& norms, int64_t at) {
  return norms.gamma ? norms.gamma[at] * norms.rstd[at] : norms.rstd[at];
}

template <class Acc>
void forward(const StageWeightsForward& args) {
  const int64_t channels = args.channels;
  Acc* params = static_cast<Acc*>(args.params);
  Acc* matrices = static_cast<Acc*>(args.matrices);
  for (int b = 0; b < args.branches; ++b) {
    with_element(args.depthwise[b].dtype, [&](auto zero) {
      using T = decltype(zero);
      for_elements<T>(args.depthwise[b], channels, [&](int64_t c, int64_t tap, const T& value) {
        params[tap * channels + c] = static_cast<Acc>(Element<T>::load(value));
      });
    });
    params += args.depthwise[b].columns * channels;
    with_element(args.pointwise[b].dtype, [&](auto zero) {
      using T = decltype(zero);
      for_elements<T>(args.pointwise[b], channels, [&](int64_t c, int64_t in, const T& value) {
        matrices[c * channels + in] = static_cast<Acc>(Element<T>::load(value));
      });
    });
    matrices += channels * channels;
  }
  const int64_t count = args.norms.count * channels;
  for (int64_t at = 0; at < count; ++at) {
    const double scale = scale_of(args.norms, at), shift = -args.norms.mean[at] * scale;
    params[at] = static_cast<Acc>(scale);
    params[count + at] = static_cast<Acc>(args.norms.beta ? args.norms.beta[at] + shift : shift);
  }
}

template <class Acc>
void backward(const StageWeightsBackward& args) {
  const int64_t channels = args.channels;
  const Acc* params = static_cast<const Acc*>(args.grad_params);
  const Acc* matrices = static_cast<const Acc*>(args.grad_matrices);
  for (int b = 0; b < args.branches; ++b) {
    const StridedWeight &depthwise = args.depthwise[b], &pointwise = args.pointwise[b];
    if (depthwise.data)
      with_element(depthwise.dtype, [&](auto zero) {
        using T = decltype(zero);
        for_elements<T>(depthwise, channels, [&](int64_t c, int64_t tap, T& value) {
          value =
              Element<T>::store(static_cast<typename Element<T>::Acc>(params[tap * channels + c]));
        });
      });
    if (pointwise.data)
      with_element(pointwise.dtype, [&](auto zero) {
        using T = decltype(zero);
        for_elements<T>(pointwise, channels, [&](int64_t c, int64_t in, T& value) {
          value = Element<T>::store(static_cast<typename Element<T>::Acc>(
              matrices[(b * channels + c) * args.pitch + in]));
        });
      });
    if (params) params += depthwise.columns * channels;
  }
  const StageNorms& norms = args.norms;
  const int64_t count = norms.count * channels;
  for (int k = 0; k < norms.count; ++k)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = k * channels + c;
      const double mean = norms.mean[at], rstd = norms.rstd[at];
      const double s0 = args.has_sums ? params[count + at] : 0;
      // The statistics of others may not be finite.
      const double s1 = args.has_sums && args.used[k] ? rstd * (params[at] - mean * s0) : 0;
      const double share = scale_of(norms, at) / -args.pixels, slope = share * rstd * s1;
      const Acc center = static_cast<Acc>(mean);
      Acc* table = static_cast<Acc*>(args.tables) + 4 * k * channels + c;
      table[0] = 1;
      table[channels] = center;
      table[2 * channels] = static_cast<Acc>(slope);
      table[3 * channels] = static_cast<Acc>(share * s0 - slope * (mean - center));
      args.s0[at] = s0;
      args.s1[at] = s1;
    }
}

}  // namespace

void stage_weights_forward(const StageWeightsForward& args, int) {
  with_wide_element(args.dtype, [&](auto zero) { forward<decltype(zero)>(args); });
}

void stage_weights_backward(const StageWeightsBackward& args, int) {
  with_wide_element(args.dtype, [&](auto zero) { backward<decltype(zero)>(args); });
}

}  // namespace asose::cpu::ASOSE_ISA
