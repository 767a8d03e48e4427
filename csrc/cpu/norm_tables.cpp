// One thread: there are a few hundred values.
#include "../norm_tables.h"

#include <cmath>
#include <cstdint>

#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Moves running values by a share of the way to those of the batch, as torch.lerp does.
template <class T, class Batch>
void update(T* running, const double* batch, double factor, double share, int64_t channels) {
  using Acc = typename Element<T>::Acc;
  const Acc weight = static_cast<Acc>(share);
  for (int64_t c = 0; c < channels; ++c) {
    const Batch value = static_cast<Batch>(batch[c] * factor);
    const Acc end = Element<T>::load(Element<T>::store(static_cast<Acc>(value)));
    const Acc start = Element<T>::load(running[c]);
    running[c] =
        Element<T>::store(std::abs(weight) < Acc(0.5) ? start + weight * (end - start)
                                                      : end - (end - start) * (1 - weight));
  }
}

template <class Batch>
void tables(const NormTables& args) {
  const int64_t channels = args.channels;
  for (int k = 0; k < args.norms; ++k) {
    const RunningNorm& norm = args.norm[k];
    const double *mean = norm.batch_mean, *var = norm.batch_var;
    double* out = args.out_mean + k * channels;
    double* rstd = args.rstd + k * channels;
    with_element(norm.dtype, [&](auto zero) {
      using T = decltype(zero);
      T* const running_mean = static_cast<T*>(norm.mean);
      T* const running_var = static_cast<T*>(norm.var);
      for (int64_t c = 0; c < channels; ++c) {
        out[c] = norm.of_batch ? mean[c] : static_cast<double>(Element<T>::load(running_mean[c]));
        const double used =
            norm.of_batch ? var[c] : static_cast<double>(Element<T>::load(running_var[c]));
        rstd[c] = 1 / std::sqrt(used + norm.eps);
      }
      if (!norm.count) return;
      *norm.count += 1;
      const double share =
          std::isnan(norm.momentum) ? 1.0 / static_cast<double>(*norm.count) : norm.momentum;
      update<T, Batch>(running_mean, mean, 1, share, channels);
      update<T, Batch>(running_var, var, args.unbiased, share, channels);
    });
  }
}

}  // namespace

void norm_tables(const NormTables& args, int) {
  with_wide_element(args.dtype, [&](auto zero) { tables<decltype(zero)>(args); });
}

}  // namespace asose::cpu::ASOSE_ISA
