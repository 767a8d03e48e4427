#include "../batch_statistics.h"

#include <cstdint>

#include "channel_space.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

// It gives the groups of partial sums, of mixed_norm_sum too.
int64_t lane_groups(int64_t outer, int64_t channels, int64_t inner) {
  return LaneGrid(channel_space(outer, channels, inner), kSumRows).groups();
}

// The tensors are z[0..inputs).
void batch_statistics(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                      const Addresses& tensors, uintptr_t partials, uintptr_t mean, uintptr_t var,
                      device::Execution execution) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_count("tensors", tensors.size(), inputs);
  const auto all = pointers(tensors);
  device::run_unlocked(device::batch_statistics,
                       {static_cast<DType>(dtype), space, inputs, all.data(),
                        address<double>(partials), address<double>(mean), address<double>(var)},
                       execution);
}

const Binding batch_statistics_binding([](py::module_& module) {
  module.def("lane_groups", &lane_groups);
  define_kernel(module, "batch_statistics", &batch_statistics);
});

}  // namespace
}  // namespace asose
