#include "../term_weights.h"

#include <cstdint>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

// The addresses are those of weights and gain.
TermWeights term_weights(const Integers& dtypes, int64_t candidates, const Addresses& addresses,
                         const Integers& order, int64_t identity) {
  expect_count("dtypes", dtypes.size(), 2);
  expect_count("addresses", addresses.size(), 2);
  expect_between("identity", identity, -1, candidates - 1);
  for (const int64_t k : order) expect_between("order", k, -1, candidates - 1);
  return {static_cast<DType>(dtypes[0]),
          static_cast<DType>(dtypes[1]),
          candidates,
          address(addresses[0]),
          address(addresses[1]),
          static_cast<int64_t>(order.size()),
          order.data(),
          identity};
}

void term_weights_forward(const Integers& dtypes, int64_t candidates, const Addresses& addresses,
                          const Integers& order, int64_t identity, int dtype, uintptr_t out,
                          device::Execution execution) {
  device::run(device::term_weights_forward,
              {term_weights(dtypes, candidates, addresses, order, identity),
               static_cast<DType>(dtype), address(out)},
              execution);
}

void term_weights_backward(const Integers& dtypes, int64_t candidates, const Addresses& addresses,
                           const Integers& order, int64_t identity, int dtype, uintptr_t grad,
                           uintptr_t grad_weights, uintptr_t grad_gain,
                           device::Execution execution) {
  device::run(device::term_weights_backward,
              {term_weights(dtypes, candidates, addresses, order, identity),
               static_cast<DType>(dtype), address(grad), address(grad_weights), address(grad_gain)},
              execution);
}

const Binding term_weights_binding([](py::module_& module) {
  define_kernel(module, "term_weights_forward", &term_weights_forward);
  define_kernel(module, "term_weights_backward", &term_weights_backward);
});

}  // namespace
}  // namespace asose
