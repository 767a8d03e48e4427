#include "../norm_relu_mean.h"

#include <cstdint>
#include <stdexcept>

#include "channel_space.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

void expect_whole_images(int64_t images, const ChannelSpace& space) {
  expect_at_least("images", images, 1);
  if (space.outer % images != 0) throw std::invalid_argument("outer must be a multiple of images");
}

// The addresses are those of x, the running mean, variance and count, gamma, beta, partials,
// statistics, mean, rstd, active, tables and y.
void norm_relu_mean_forward(int dtype, int64_t images, int64_t outer, int64_t channels,
                            int64_t inner, const Addresses& addresses, bool of_batch, int running,
                            double eps, double momentum, double unbiased,
                            device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_whole_images(images, space);
  expect_count("addresses", addresses.size(), 13);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  const RunningNorm norm{eps,      of_batch, static_cast<DType>(running),
                         to[1],    to[2],    static_cast<int64_t*>(to[3]),
                         momentum, nullptr,  nullptr};
  device::run_unlocked(
      device::norm_relu_mean_forward,
      {static_cast<DType>(dtype), images, space, to[0], norm, table(4), table(5), unbiased,
       table(6), table(7), table(8), table(9), table(10), to[11], to[12]},
      execution);
}

// The addresses are those of x, grad, gamma, beta, mean, rstd, active, sums, tables, and of the
// gradients of x, gamma and beta.
void norm_relu_mean_backward(int dtype, int64_t images, int64_t outer, int64_t channels,
                             int64_t inner, const Addresses& addresses, bool of_batch,
                             device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_whole_images(images, space);
  expect_count("addresses", addresses.size(), 12);
  const auto to = pointers(addresses);
  const auto table = [&](int i) { return static_cast<double*>(to[i]); };
  device::run_unlocked(
      device::norm_relu_mean_backward,
      {static_cast<DType>(dtype), images, space, to[0], to[1], table(2), table(3), table(4),
       table(5), table(6), of_batch, table(7), to[8], to[9], table(10), table(11)},
      execution);
}

const Binding norm_relu_mean_binding([](py::module_& module) {
  module.def("norm_relu_mean_forward", &norm_relu_mean_forward);
  module.def("norm_relu_mean_backward", &norm_relu_mean_backward);
});

}  // namespace
}  // namespace asose
