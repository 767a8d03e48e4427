// Every element is read and written once.
#include "../sgd.h"

#include <cstdint>

#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

double clipping_factor(const Sgd& args) {
  double factor = 1;
  if (!args.norm) return factor;
  with_wide_element(args.norm_dtype, [&](auto zero) {
    factor = args.bound / (*static_cast<const decltype(zero)*>(args.norm) + 1e-6);
  });
  return factor > 1 ? 1 : factor;
}

template <class T>
void step(const SgdChunk& chunk, const Sgd& args, double clipping) {
  const T factor = static_cast<T>(clipping), decay = static_cast<T>(args.decay);
  const T momentum = static_cast<T>(args.momentum), rate = static_cast<T>(args.rate);
  T* const p = static_cast<T*>(chunk.parameter);
  T* const m = static_cast<T*>(chunk.momentum);
  const T* const g = static_cast<const T*>(chunk.gradient);
  const bool decays = decay != 0;  // 0 times an infinite parameter would be NaN
  const auto direction = [&](int64_t i) __attribute__((always_inline)) {
    return decays ? factor * g[i] + decay * p[i] : factor * g[i];
  };
  if (!m) {
#pragma omp simd
    for (int64_t i = 0; i < chunk.count; ++i) p[i] -= rate * direction(i);
  } else if (args.nesterov) {
#pragma omp simd
    for (int64_t i = 0; i < chunk.count; ++i) {
      const T d = direction(i);
      m[i] = momentum * m[i] + d;
      p[i] -= rate * (d + momentum * m[i]);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < chunk.count; ++i) {
      m[i] = momentum * m[i] + direction(i);
      p[i] -= rate * m[i];
    }
  }
}

}  // namespace

void sgd(const Sgd& args, int threads) {
  const double factor = clipping_factor(args);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t k = 0; k < args.chunks; ++k)
    with_wide_element(args.chunk[k].dtype,
                      [&](auto zero) { step<decltype(zero)>(args.chunk[k], args, factor); });
}

}  // namespace asose::cpu::ASOSE_ISA
