// Every element is read and written once.
#include "../add_scaled.h"

#include <cstdint>

#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

template <class T>
void add(const AddScaled& args, double given, int threads) {
  using Acc = typename Element<T>::Acc;
  const Acc factor = static_cast<Acc>(given);
  const T* const x = static_cast<const T*>(args.x);
  T* const to = static_cast<T*>(args.to);
#pragma omp parallel for simd schedule(static) num_threads(threads)
  for (int64_t i = 0; i < args.count; ++i)
    to[i] = Element<T>::store(Element<T>::load(to[i]) + factor * Element<T>::load(x[i]));
}

}  // namespace

void add_scaled(const AddScaled& args, int threads) {
  double factor = 1;
  if (args.factor)
    with_wide_element(args.factor_dtype, [&](auto zero) {
      factor = *static_cast<const decltype(zero)*>(args.factor);
    });
  with_element(args.dtype, [&](auto zero) { add<decltype(zero)>(args, factor, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
