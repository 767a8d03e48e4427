#include "../line_conv.h"

#include <cstdint>
#include <limits>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

LineConv line_conv(int dtype, const Integers& shape, const Integers& weight, int64_t stride,
                   bool vertical, bool relu) {
  expect_images(shape);
  expect_at_least("images", shape[0], 1);
  expect_count("weight_shape", weight.size(), 3);
  for (const int64_t size : weight)
    expect_between("a size of weight", size, 1, std::numeric_limits<int>::max());
  expect_between("a remainder of the kernel by 2", weight[2] % 2, 1, 1);
  expect_between("channels", shape[1], weight[1], weight[1]);
  expect_between("stride", stride, 1, 2);
  return {static_cast<DType>(dtype),
          shape[0],
          shape[2],
          shape[3],
          weight[1],
          weight[0],
          weight[2],
          stride,
          vertical,
          relu};
}

// It gives the values of packed weights, the slices of the partial sums, the values of each, and
// the bytes of scratch a thread.
py::tuple line_conv_plan(int dtype, const Integers& shape, const Integers& weight_shape,
                         int64_t stride, bool vertical, bool relu) {
  const LineTiling tiling(line_conv(dtype, shape, weight_shape, stride, vertical, relu));
  return py::make_tuple(tiling.packed_values, tiling.slices, tiling.partial_values,
                        tiling.scratch_bytes);
}

void line_conv_forward(int dtype, const Integers& shape, const Integers& weight_shape,
                       int64_t stride, bool vertical, bool relu, uintptr_t x, uintptr_t weight,
                       uintptr_t packed, uintptr_t y, uintptr_t scratch,
                       device::Execution execution) {
  device::run_unlocked(device::line_conv_forward,
                       {line_conv(dtype, shape, weight_shape, stride, vertical, relu), address(x),
                        address(weight), address(packed), address(y), address(scratch)},
                       execution);
}

void line_conv_backward(int dtype, const Integers& shape, const Integers& weight_shape,
                        int64_t stride, bool vertical, bool relu, uintptr_t grad, uintptr_t x,
                        uintptr_t weight, uintptr_t packed, uintptr_t grad_x, uintptr_t partials,
                        uintptr_t grad_weight, uintptr_t scratch, device::Execution execution) {
  device::run_unlocked(device::line_conv_backward,
                       {line_conv(dtype, shape, weight_shape, stride, vertical, relu),
                        address(grad), address(x), address(weight), address(packed),
                        address(grad_x), address(partials), address(grad_weight), address(scratch)},
                       execution);
}

const Binding line_conv_binding([](py::module_& module) {
  module.def("line_conv_plan", &line_conv_plan);
  define_kernel(module, "line_conv_forward", &line_conv_forward);
  define_kernel(module, "line_conv_backward", &line_conv_backward);
});

}  // namespace
}  // namespace asose
