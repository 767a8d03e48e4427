#include "../norm_pool.h"

#include <cstdint>
#include <stdexcept>

#include "channel_space.h"
#include "device.h"
#include "module.h"
#include "one_norm.h"

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

// The addresses are those of z, partials, statistics, mean, rstd, tables and y.
void norm_pool_forward(int dtype, int64_t outer, int64_t channels, int64_t inner, int64_t height,
                       int64_t width, const Addresses& norm_tables, const Integers& dtypes,
                       bool of_batch, double eps, double momentum, const Addresses& addresses,
                       device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  const GivenNorm norm(norm_tables, dtypes, of_batch, eps, momentum, channels);
  expect_count("addresses", addresses.size(), 7);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  device::run_unlocked(
      device::norm_pool_forward,
      {static_cast<DType>(dtype), space, pooling_of(space, height, width), to[0], norm.running,
       norm.gamma.data(), norm.beta.data(), table(1), table(2), table(3), table(4), to[5], to[6]},
      execution);
}

// The addresses are those of z, grad, mean, rstd, partials, sums, tables and grad_z.
void norm_pool_backward(int dtype, int64_t outer, int64_t channels, int64_t inner, int64_t height,
                        int64_t width, const Addresses& affine_tables, const Integers& dtypes,
                        bool of_batch, const Addresses& addresses, device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  const GivenAffine affine(affine_tables, dtypes, channels);
  expect_count("addresses", addresses.size(), 8);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  device::run_unlocked(device::norm_pool_backward,
                       {static_cast<DType>(dtype), space, pooling_of(space, height, width), to[0],
                        to[1], affine.gamma.data(), affine.beta.data(), table(2), table(3),
                        of_batch, table(4), table(5), to[6], to[7]},
                       execution);
  if (const double* sums = table(5))
    affine.grad_beta.store(sums), affine.grad_gamma.store(sums + channels);
}

const Binding norm_pool_binding([](py::module_& module) {
  module.def("norm_pool_groups", &groups);
  define_kernel(module, "norm_pool_forward", &norm_pool_forward);
  define_kernel(module, "norm_pool_backward", &norm_pool_backward);
});

}  // namespace
}  // namespace asose
