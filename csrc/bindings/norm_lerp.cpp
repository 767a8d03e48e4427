#include "../norm_lerp.h"

#include <cstdint>

#include "channel_space.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

// The addresses are those of z, shortcut, gain, the running mean, variance and count, gamma, beta,
// partials, statistics, mean, rstd, tables and y.
void norm_lerp_forward(int dtype, int64_t outer, int64_t channels, int64_t inner,
                       const Addresses& addresses, bool of_batch, int running, double eps,
                       double momentum, double unbiased, device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_count("addresses", addresses.size(), 14);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  const RunningNorm norm{eps,      of_batch, static_cast<DType>(running),
                         to[3],    to[4],    static_cast<int64_t*>(to[5]),
                         momentum, nullptr,  nullptr};
  device::run_unlocked(
      device::norm_lerp_forward,
      {static_cast<DType>(dtype), space, to[0], to[1], to[2], norm, table(6), table(7), unbiased,
       table(8), table(9), table(10), table(11), to[12], to[13]},
      execution);
}

// The addresses are those of z, shortcut, grad, gain, gamma, beta, mean, rstd, partials, sums,
// tables, and of the gradients of z, shortcut, gain, gamma and beta.
void norm_lerp_backward(int dtype, int64_t outer, int64_t channels, int64_t inner,
                        const Addresses& addresses, bool of_batch, device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_count("addresses", addresses.size(), 16);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  device::run_unlocked(device::norm_lerp_backward,
                       {static_cast<DType>(dtype), space, to[0], to[1], to[2], to[3], table(4),
                        table(5), table(6), table(7), of_batch, table(8), table(9), to[10], to[11],
                        to[12], to[13], table(14), table(15)},
                       execution);
}

const Binding norm_lerp_binding([](py::module_& module) {
  module.def("norm_lerp_forward", &norm_lerp_forward);
  module.def("norm_lerp_backward", &norm_lerp_backward);
});

}  // namespace
}  // namespace asose
