#include "../pointwise.h"

#include <cstdint>

#include "arguments.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

// The weights are those of each output, or none.
Pointwise pointwise(int dtype, const Integers& shape, const Integers& outputs, int stride,
                    const Addresses& weights = {}) {
  expect_images(shape);
  expect_between("stride", stride, 1, kMaxPointwise);
  expect_between("outputs", static_cast<int64_t>(outputs.size()), 1, stride);
  Pointwise op{};
  op.dtype = static_cast<DType>(dtype);
  op.images = shape[0], op.channels = shape[1], op.height = shape[2], op.width = shape[3];
  op.stride = stride, op.count = static_cast<int>(outputs.size());
  for (size_t g = 0; g < outputs.size(); ++g) {
    expect_at_least("channels of an output", outputs[g], 0);
    op.outputs[g] = outputs[g];
  }
  for (size_t g = 0; g < weights.size(); ++g) op.weights[g] = address(weights[g]);
  return op;
}

int64_t pointwise_slices(const Integers& shape, int stride) {
  return pointwise(0, shape, {1}, stride).slices();
}

void pointwise_forward(int dtype, const Integers& shape, const Integers& outputs, int stride,
                       uintptr_t x, const Addresses& weights, uintptr_t transposed, uintptr_t z,
                       device::Execution execution) {
  expect_count("weights", weights.size(), static_cast<int64_t>(outputs.size()));
  Pointwise op = pointwise(dtype, shape, outputs, stride, weights);
  op.x = address(x);
  device::run_unlocked(device::pointwise_forward, {op, address(transposed), address(z)}, execution);
}

void pointwise_backward(int dtype, const Integers& shape, const Integers& outputs, int stride,
                        uintptr_t x, const Addresses& weights, uintptr_t grad, uintptr_t grad_x,
                        uintptr_t partials, const Addresses& grad_weights,
                        device::Execution execution) {
  const auto count = static_cast<int64_t>(outputs.size());
  expect_count("weights", weights.size(), count);
  expect_count("grad_weights", grad_weights.size(), count);
  Pointwise op = pointwise(dtype, shape, outputs, stride, weights);
  op.x = address(x);
  PointwiseBackward args{op, address(grad), address(grad_x), address(partials), {}};
  for (int g = 0; g < op.count; ++g) args.grad_weights[g] = address(grad_weights[g]);
  device::run_unlocked(device::pointwise_backward, args, execution);
}

const Binding pointwise_binding([](py::module_& module) {
  module.def("pointwise_slices", &pointwise_slices);
  define_kernel(module, "pointwise_forward", &pointwise_forward);
  define_kernel(module, "pointwise_backward", &pointwise_backward);
});

}  // namespace
}  // namespace asose
