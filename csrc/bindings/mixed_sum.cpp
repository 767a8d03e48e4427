#include "../mixed_sum.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

// There are `tensors` of them for each input, and one more.
void expect_operands(int inputs, int tensors, const Integers& sizes, const Addresses& addresses,
                     const Integers& strides) {
  expect_between("inputs", inputs, 1, kMaxInputs);
  expect_between("dimensions", static_cast<int64_t>(sizes.size()), 0, kMaxDims);
  for (const int64_t size : sizes) expect_at_least("a size", size, 0);
  expect_count("addresses", addresses.size(), int64_t{tensors} * inputs + 1);
  expect_count("strides", strides.size(), static_cast<int64_t>(addresses.size() * sizes.size()));
}

// `strides` has one row per address, in the same order.
std::vector<Operand> operands(const Addresses& addresses, const Integers& strides, size_t dims) {
  std::vector<Operand> result;
  result.reserve(addresses.size());
  for (size_t i = 0; i < addresses.size(); ++i)
    result.push_back({address(addresses[i]), strides.data() + i * dims});
  return result;
}

IterationSpace iteration_space(const Integers& sizes) {
  return {static_cast<int>(sizes.size()), sizes.data()};
}

int64_t mixed_sum_tasks(const Integers& sizes) {
  return device::mixed_sum_tasks(iteration_space(sizes));
}

// The operands are x[0..inputs), y.
void mixed_sum_forward(int dtype, int inputs, const Integers& sizes, const Addresses& addresses,
                       const Integers& strides, uintptr_t weights, device::Execution execution) {
  expect_operands(inputs, 1, sizes, addresses, strides);
  const auto all = operands(addresses, strides, sizes.size());
  device::run_unlocked(device::mixed_sum_forward,
                       {static_cast<DType>(dtype), iteration_space(sizes), inputs, all.data(),
                        address(weights), all[inputs]},
                       execution);
}

// The operands are x[0..inputs), grad, grad_x[0..inputs).
void mixed_sum_backward(int dtype, int inputs, const Integers& sizes, const Addresses& addresses,
                        const Integers& strides, uintptr_t weights, uintptr_t partials,
                        uintptr_t grad_weights, device::Execution execution) {
  expect_operands(inputs, 2, sizes, addresses, strides);
  const auto all = operands(addresses, strides, sizes.size());
  device::run_unlocked(
      device::mixed_sum_backward,
      {static_cast<DType>(dtype), iteration_space(sizes), inputs, all.data(), address(weights),
       all[inputs], all.data() + inputs + 1, address<double>(partials), address(grad_weights)},
      execution);
}

const Binding mixed_sum_binding([](py::module_& module) {
  module.attr("max_inputs") = kMaxInputs;
  module.attr("max_dims") = kMaxDims;
  module.def("mixed_sum_tasks", &mixed_sum_tasks);
  define_kernel(module, "mixed_sum_forward", &mixed_sum_forward);
  define_kernel(module, "mixed_sum_backward", &mixed_sum_backward);
});

}  // namespace
}  // namespace asose
