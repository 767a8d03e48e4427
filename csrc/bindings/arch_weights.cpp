#include "../arch_weights.h"

#include <cstdint>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

void expect_arch_weights(int64_t layers, int64_t ops) {
  expect_at_least("layers", layers, 0);
  expect_between("ops", ops, 1, kMaxOps);
}

void arch_weights_forward(int dtype, int64_t layers, int64_t ops, uintptr_t logits, uintptr_t noise,
                          uintptr_t rng, double temperature, bool hard, int top_k, double amount,
                          double below, int skip, int none, uintptr_t weights, uintptr_t soft,
                          uintptr_t index, uintptr_t entropy, uintptr_t max_prob,
                          device::Execution execution) {
  expect_arch_weights(layers, ops);
  device::run(device::arch_weights_forward,
              {static_cast<DType>(dtype), layers, ops, address(logits), address<double>(noise),
               address<int64_t>(rng), temperature, hard,
               BoostRule{top_k, amount, below, skip, none}, address(weights), address(soft),
               address<int64_t>(index), address(entropy), address(max_prob)},
              execution);
}

void arch_weights_backward(int dtype, int64_t layers, int64_t ops, uintptr_t grad, uintptr_t soft,
                           double temperature, uintptr_t grad_logits, device::Execution execution) {
  expect_arch_weights(layers, ops);
  device::run(device::arch_weights_backward,
              {static_cast<DType>(dtype), layers, ops, address(grad), address(soft), temperature,
               address(grad_logits)},
              execution);
}

const Binding arch_weights_binding([](py::module_& module) {
  module.attr("max_ops") = kMaxOps;
  define_kernel(module, "arch_weights_forward", &arch_weights_forward);
  define_kernel(module, "arch_weights_backward", &arch_weights_backward);
});

}  // namespace
}  // namespace asose
