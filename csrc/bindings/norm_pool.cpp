#include "../norm_pool.h"

#include <cstdint>
#include <stdexcept>

#include "channel_space.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

Pooling pooling_of(const ChannelSpace& space, int64_t height, int64_t width) {
  expect_between("height", height, 0, kMostPixels);
  expect_between("width", width, height ? 1 : 0, kMostPixels);
  if (height && (space.inner != 1 || space.outer % (height * width)))
    throw std::invalid_argument("outer must be that of images of height and width, and inner 1");
  return {height, width};
}

int64_t groups(int64_t outer, int64_t channels, int64_t inner, int64_t height, int64_t width) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  return norm_pool_groups(space, pooling_of(space, height, width));
}

// The addresses are those of z, the running mean, variance and count, gamma, beta, partials,
// statistics, mean, rstd, tables and y.
void norm_pool_forward(int dtype, int64_t outer, int64_t channels, int64_t inner, int64_t height,
                       int64_t width, const Addresses& addresses, bool of_batch, int running,
                       double eps, double momentum, double unbiased, device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_count("addresses", addresses.size(), 12);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  const RunningNorm norm{eps,      of_batch, static_cast<DType>(running),
                         to[1],    to[2],    static_cast<int64_t*>(to[3]),
                         momentum, nullptr,  nullptr};
  device::run_unlocked(
      device::norm_pool_forward,
      {static_cast<DType>(dtype), space, pooling_of(space, height, width), to[0], norm, table(4),
       table(5), unbiased, table(6), table(7), table(8), table(9), to[10], to[11]},
      execution);
}

// The addresses are those of z, grad, gamma, beta, mean, rstd, partials, sums, tables and grad_z.
void norm_pool_backward(int dtype, int64_t outer, int64_t channels, int64_t inner, int64_t height,
                        int64_t width, const Addresses& addresses, bool of_batch,
                        device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_count("addresses", addresses.size(), 10);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  device::run_unlocked(
      device::norm_pool_backward,
      {static_cast<DType>(dtype), space, pooling_of(space, height, width), to[0], to[1], table(2),
       table(3), table(4), table(5), of_batch, table(6), table(7), to[8], to[9]},
      execution);
}

const Binding norm_pool_binding([](py::module_& module) {
  module.def("norm_pool_groups", &groups);
  module.def("norm_pool_forward", &norm_pool_forward);
  module.def("norm_pool_backward", &norm_pool_backward);
});

}  // namespace
}  // namespace asose
