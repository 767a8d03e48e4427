#include "../pool_pair.h"

#include <cstdint>
#include <vector>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

PoolPair pool_pair(int dtype, const Integers& shape, int64_t stride, uintptr_t x) {
  expect_images(shape);
  expect_between("stride", stride, 1, 2);
  return {static_cast<DType>(dtype), shape[0], shape[1], shape[2], shape[3], stride, address(x)};
}

int64_t pool_pair_scratch(const Integers& shape, int64_t stride) {
  return pool_pair_scratch_bytes(pool_pair(0, shape, stride, 0));
}

void pool_pair_forward(int dtype, const Integers& shape, int64_t stride, uintptr_t x,
                       uintptr_t average, uintptr_t max, device::Execution execution) {
  device::run_unlocked(device::pool_pair_forward,
                       {pool_pair(dtype, shape, stride, x), address(average), address(max)},
                       execution);
}

template <class T>
void read_factors(const T* from, int64_t count, std::vector<double>& to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<double>(from[i]);
}

// The addresses are those of the gradients of average and max, of their z, of the terms. The first
// `count` terms have factors, f32 or f64; the others count once.
void pool_pair_backward(int dtype, const Integers& shape, int64_t stride, uintptr_t x,
                        const Addresses& addresses, uintptr_t tables, int factor_dtype,
                        int64_t count, uintptr_t factor, uintptr_t grad_x, uintptr_t scratch,
                        device::Execution execution) {
  const int64_t terms = static_cast<int64_t>(addresses.size()) - 4;
  expect_at_least("terms", terms, 0);
  expect_between("factors", count, 0, terms);
  const auto all = pointers(addresses);
  std::vector<double> factors(terms, 1);
  if (static_cast<DType>(factor_dtype) == DType::f64)
    read_factors(address<const double>(factor), count, factors);
  else
    read_factors(address<const float>(factor), count, factors);
  device::run_unlocked(device::pool_pair_backward,
                       {pool_pair(dtype, shape, stride, x),
                        {all[0], all[1]},
                        {all[2], all[3]},
                        address(tables),
                        static_cast<int>(terms),
                        all.data() + 4,
                        factors.data(),
                        address(grad_x),
                        address(scratch)},
                       execution);
}

const Binding pool_pair_binding([](py::module_& module) {
  module.def("pool_pair_scratch", &pool_pair_scratch);
  define_kernel(module, "pool_pair_forward", &pool_pair_forward);
  define_kernel(module, "pool_pair_backward", &pool_pair_backward);
});

}  // namespace
}  // namespace asose
