#include "dense_conv.h"

#include <cstdint>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

// It gives the values of packed weights, the slices of the partial sums, the values of each, and
// the bytes of scratch a thread.
py::tuple dense_conv_plan(int dtype, const Integers& shape, const Integers& weights,
                          int64_t stride_down, int64_t stride_across, bool relu) {
  const DenseRoom room =
      dense_room(dense_conv(dtype, shape, weights, stride_down, stride_across, relu));
  return py::make_tuple(room.packed_values, room.slices, room.partial_values, room.scratch_bytes);
}

// Whether it runs by minimal filtering.
bool dense_conv_filtered(int dtype, const Integers& shape, const Integers& weights,
                         int64_t stride_down, int64_t stride_across, bool relu) {
  return WinogradTiling::fits(dense_conv(dtype, shape, weights, stride_down, stride_across, relu));
}

void dense_conv_forward(int dtype, const Integers& shape, const Integers& weights_shape,
                        int64_t stride_down, int64_t stride_across, bool relu, uintptr_t x,
                        uintptr_t weights, const Integers& strides, uintptr_t packed, uintptr_t y,
                        uintptr_t scratch, device::Execution execution) {
  device::run_unlocked(
      device::dense_conv_forward,
      {dense_conv(dtype, shape, weights_shape, stride_down, stride_across, relu), address(x),
       dense_weights(weights, strides), address(packed), address(y), address(scratch)},
      execution);
}

void dense_conv_backward(int dtype, const Integers& shape, const Integers& weights_shape,
                         int64_t stride_down, int64_t stride_across, bool relu, uintptr_t grad,
                         uintptr_t x, uintptr_t weights, const Integers& strides, uintptr_t packed,
                         uintptr_t grad_x, uintptr_t partials, uintptr_t grad_weights,
                         const Integers& grad_strides, uintptr_t scratch,
                         device::Execution execution) {
  device::run_unlocked(
      device::dense_conv_backward,
      {dense_conv(dtype, shape, weights_shape, stride_down, stride_across, relu), address(grad),
       nullptr, address(x), dense_weights(weights, strides), address(packed), address(grad_x),
       address(partials), dense_weights(grad_weights, grad_strides), address(scratch)},
      execution);
}

const Binding dense_conv_binding([](py::module_& module) {
  module.def("dense_conv_plan", &dense_conv_plan);
  module.def("dense_conv_filtered", &dense_conv_filtered);
  define_kernel(module, "dense_conv_forward", &dense_conv_forward);
  define_kernel(module, "dense_conv_backward", &dense_conv_backward);
});

}  // namespace
}  // namespace asose
