#include "../separable.h"

#include <cstdint>

#include "depthwise.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

// It gives the slices of the partial sums, the channels in a row of pointwise, and the bytes of
// scratch a thread.
py::tuple separable_plan(int dtype, const Integers& shape, const Integers& kernels,
                         const Integers& dilations, int stride, bool affine, int inputs) {
  const SeparableTiling tiling(
      {depthwise(dtype, shape, kernels, dilations, stride, false, affine, inputs), nullptr,
       nullptr});
  return py::make_tuple(tiling.slices, tiling.padded_channels, tiling.scratch_bytes);
}

// The addresses are those of x[0..inputs), z[0..branches).
void separable_forward(int dtype, const Integers& shape, const Integers& kernels,
                       const Integers& dilations, int stride, bool relu, bool affine, int inputs,
                       const Addresses& addresses, uintptr_t params, uintptr_t pointwise,
                       uintptr_t blocked, uintptr_t partials, uintptr_t mean, uintptr_t var,
                       uintptr_t scratch, device::Execution execution) {
  MultiDepthwise op = depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs);
  expect_count("addresses", addresses.size(), op.inputs + op.branches);
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  device::run_unlocked(device::separable_forward,
                       {{op, address(pointwise), address(blocked)},
                        all.data() + inputs,
                        address<double>(partials),
                        address<double>(mean),
                        address<double>(var)},
                       execution);
}

// The addresses are those of x[0..inputs), grad[0..branches), z[0..branches), grad_x[0..inputs).
void separable_backward(int dtype, const Integers& shape, const Integers& kernels,
                        const Integers& dilations, int stride, bool relu, bool affine, int inputs,
                        const Addresses& addresses, uintptr_t params, uintptr_t pointwise,
                        uintptr_t blocked, uintptr_t tables, bool need_depthwise,
                        bool need_pointwise, bool need_affine, uintptr_t partials,
                        uintptr_t partials_pointwise, uintptr_t grad_params,
                        uintptr_t grad_pointwise, uintptr_t scratch, device::Execution execution) {
  MultiDepthwise op = depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs);
  expect_count("addresses", addresses.size(), 2 * (op.inputs + op.branches));
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  void* const* grad = all.data() + inputs;
  device::run_unlocked(device::separable_backward,
                       {{op, address(pointwise), address(blocked)},
                        grad,
                        grad + op.branches,
                        address(tables),
                        grad + 2 * op.branches,
                        need_depthwise,
                        need_pointwise,
                        need_affine,
                        address(partials),
                        address(partials_pointwise),
                        address(grad_params),
                        address(grad_pointwise)},
                       execution);
}

const Binding separable_binding([](py::module_& module) {
  module.def("separable_plan", &separable_plan);
  define_kernel(module, "separable_forward", &separable_forward);
  define_kernel(module, "separable_backward", &separable_backward);
});

}  // namespace
}  // namespace asose
