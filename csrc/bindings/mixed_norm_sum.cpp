#include "../mixed_norm_sum.h"

#include <cstdint>
#include <vector>

#include "../mixed_sum.h"
#include "channel_space.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

FoldedNorms folded_norms(int count, uintptr_t gamma, uintptr_t beta, uintptr_t mean,
                         uintptr_t rstd) {
  return {count, address<double>(gamma), address<double>(beta), address<double>(mean),
          address<double>(rstd)};
}

// The tensors are z[0..inputs), y.
void mixed_norm_sum_forward(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                            const Addresses& tensors, uintptr_t weights, int norms, uintptr_t gamma,
                            uintptr_t beta, uintptr_t mean, uintptr_t rstd, uintptr_t tables,
                            device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_between("inputs", inputs, 1, kMaxInputs);
  expect_count("tensors", tensors.size(), inputs + 1);
  expect_between("norms", norms, 0, inputs);
  const auto all = pointers(tensors);
  device::run_unlocked(device::mixed_norm_sum_forward,
                       {static_cast<DType>(dtype), space, inputs, all.data(), address(weights),
                        folded_norms(norms, gamma, beta, mean, rstd), address(tables), all[inputs]},
                       execution);
}

// The tensors are z[0..inputs), grad, grad_z[0..inputs).
void mixed_norm_sum_backward(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                             const Addresses& tensors, uintptr_t weights, uintptr_t gamma,
                             uintptr_t beta, uintptr_t mean, uintptr_t rstd,
                             const std::vector<int>& of_batch, uintptr_t partials, uintptr_t sums,
                             uintptr_t grad_weights, uintptr_t tables,
                             device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_between("inputs", inputs, 1, kMaxInputs);
  expect_count("tensors", tensors.size(), 2 * inputs + 1);
  expect_between("norms", static_cast<int64_t>(of_batch.size()), 0, inputs);
  const auto all = pointers(tensors);
  device::run_unlocked(
      device::mixed_norm_sum_backward,
      {static_cast<DType>(dtype), space, inputs, all.data(), all[inputs], address(weights),
       folded_norms(static_cast<int>(of_batch.size()), gamma, beta, mean, rstd), of_batch.data(),
       address<double>(partials), address<double>(sums), address(tables), all.data() + inputs + 1,
       address(grad_weights)},
      execution);
}

const Binding mixed_norm_sum_binding([](py::module_& module) {
  define_kernel(module, "mixed_norm_sum_forward", &mixed_norm_sum_forward);
  define_kernel(module, "mixed_norm_sum_backward", &mixed_norm_sum_backward);
});

}  // namespace
}  // namespace asose
