#include "../multi_depthwise.h"

#include <cstdint>

#include "depthwise.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

// It gives the slices of the partial sums, and the bytes of scratch a thread.
py::tuple multi_depthwise_plan(int dtype, const Integers& shape, const Integers& kernels,
                               const Integers& dilations, int stride, bool affine, int inputs) {
  const DepthwiseWorkspace workspace = device::multi_depthwise_workspace(
      depthwise(dtype, shape, kernels, dilations, stride, false, affine, inputs));
  return py::make_tuple(workspace.slices, workspace.scratch_bytes);
}

// The addresses are those of x[0..inputs), y[0..branches).
void multi_depthwise_forward(int dtype, const Integers& shape, const Integers& kernels,
                             const Integers& dilations, int stride, bool relu, bool affine,
                             int inputs, const Addresses& addresses, uintptr_t params,
                             uintptr_t scratch, device::Execution execution) {
  MultiDepthwise op = depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs);
  expect_count("addresses", addresses.size(), op.inputs + op.branches);
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  device::run_unlocked(device::multi_depthwise_forward, {op, all.data() + inputs}, execution);
}

// The addresses are those of x[0..inputs), grad[0..branches), grad_x[0..inputs).
void multi_depthwise_backward(int dtype, const Integers& shape, const Integers& kernels,
                              const Integers& dilations, int stride, bool relu, bool affine,
                              int inputs, const Addresses& addresses, uintptr_t params,
                              bool need_weights, bool need_affine, uintptr_t partials,
                              uintptr_t grad_params, uintptr_t scratch,
                              device::Execution execution) {
  MultiDepthwise op = depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs);
  expect_count("addresses", addresses.size(), 2 * op.inputs + op.branches);
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  device::run_unlocked(device::multi_depthwise_backward,
                       {op, all.data() + inputs, all.data() + inputs + op.branches, need_weights,
                        need_affine, address(partials), address(grad_params)},
                       execution);
}

const Binding multi_depthwise_binding([](py::module_& module) {
  module.attr("max_branches") = kMaxBranches;
  module.def("multi_depthwise_plan", &multi_depthwise_plan);
  define_kernel(module, "multi_depthwise_forward", &multi_depthwise_forward);
  define_kernel(module, "multi_depthwise_backward", &multi_depthwise_backward);
});

}  // namespace
}  // namespace asose
