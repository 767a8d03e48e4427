#include "../norm_lerp.h"

#include <cstdint>

#include "channel_space.h"
#include "device.h"
#include "module.h"
#include "one_norm.h"

namespace asose {
namespace {

// The addresses are those of z, shortcut, gain, partials, statistics, mean, rstd, tables and y.
void norm_lerp_forward(int dtype, int64_t outer, int64_t channels, int64_t inner,
                       const Addresses& norm_tables, const Integers& dtypes, bool of_batch,
                       double eps, double momentum, const Addresses& addresses,
                       device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  const GivenNorm norm(norm_tables, dtypes, of_batch, eps, momentum, channels);
  expect_count("addresses", addresses.size(), 9);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  device::run_unlocked(
      device::norm_lerp_forward,
      {static_cast<DType>(dtype), space, to[0], to[1], to[2], norm.running, norm.gamma.data(),
       norm.beta.data(), table(3), table(4), table(5), table(6), to[7], to[8]},
      execution);
}

// The addresses are those of z, shortcut, grad, gain, mean, rstd, partials, sums, tables, and of
// the gradients of z, shortcut and gain.
void norm_lerp_backward(int dtype, int64_t outer, int64_t channels, int64_t inner,
                        const Addresses& affine_tables, const Integers& dtypes, bool of_batch,
                        const Addresses& addresses, device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  GivenAffine affine(affine_tables, dtypes, channels);
  expect_count("addresses", addresses.size(), 12);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  device::run_unlocked(
      device::norm_lerp_backward,
      {static_cast<DType>(dtype), space, to[0], to[1], to[2], to[3], affine.gamma.data(),
       affine.beta.data(), table(4), table(5), of_batch, table(6), table(7), to[8], to[9], to[10],
       to[11], affine.grad_gamma.data(), affine.grad_beta.data()},
      execution);
  affine.grad_gamma.store(), affine.grad_beta.store();
}

const Binding norm_lerp_binding([](py::module_& module) {
  define_kernel(module, "norm_lerp_forward", &norm_lerp_forward);
  define_kernel(module, "norm_lerp_backward", &norm_lerp_backward);
});

}  // namespace
}  // namespace asose
