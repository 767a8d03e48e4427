#include "../norm_relu_mean.h"

#include <cstdint>
#include <stdexcept>

#include "channel_space.h"
#include "device.h"
#include "module.h"
#include "one_norm.h"

namespace asose {
namespace {

void expect_whole_images(int64_t images, const ChannelSpace& space) {
  expect_at_least("images", images, 1);
  if (space.outer % images != 0) throw std::invalid_argument("outer must be a multiple of images");
}

// The addresses are those of x, partials, statistics, mean, rstd, active, tables and y.
void norm_relu_mean_forward(int dtype, int64_t images, int64_t outer, int64_t channels,
                            int64_t inner, const Addresses& norm_tables, const Integers& dtypes,
                            bool of_batch, double eps, double momentum, const Addresses& addresses,
                            device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_whole_images(images, space);
  const GivenNorm norm(norm_tables, dtypes, of_batch, eps, momentum, channels);
  expect_count("addresses", addresses.size(), 8);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  device::run_unlocked(
      device::norm_relu_mean_forward,
      {static_cast<DType>(dtype), images, space, to[0], norm.running, norm.gamma.data(),
       norm.beta.data(), table(1), table(2), table(3), table(4), table(5), to[6], to[7]},
      execution);
}

// The addresses are those of x, grad, mean, rstd, active, sums, tables and grad_x.
void norm_relu_mean_backward(int dtype, int64_t images, int64_t outer, int64_t channels,
                             int64_t inner, const Addresses& affine_tables, const Integers& dtypes,
                             bool of_batch, const Addresses& addresses,
                             device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_whole_images(images, space);
  GivenAffine affine(affine_tables, dtypes, channels);
  expect_count("addresses", addresses.size(), 8);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  device::run_unlocked(device::norm_relu_mean_backward,
                       {static_cast<DType>(dtype), images, space, to[0], to[1], affine.gamma.data(),
                        affine.beta.data(), table(2), table(3), table(4), of_batch, table(5), to[6],
                        to[7], affine.grad_gamma.data(), affine.grad_beta.data()},
                       execution);
  affine.grad_gamma.store(), affine.grad_beta.store();
}

const Binding norm_relu_mean_binding([](py::module_& module) {
  define_kernel(module, "norm_relu_mean_forward", &norm_relu_mean_forward);
  define_kernel(module, "norm_relu_mean_backward", &norm_relu_mean_backward);
});

}  // namespace
}  // namespace asose
