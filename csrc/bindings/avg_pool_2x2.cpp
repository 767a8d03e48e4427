#include "../avg_pool_2x2.h"

#include <cstdint>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

AvgPool2x2 avg_pool_2x2(int dtype, const Integers& shape) {
  expect_images(shape);
  return {static_cast<DType>(dtype), shape[0], shape[1], shape[2], shape[3]};
}

void avg_pool_2x2_forward(int dtype, const Integers& shape, uintptr_t x, uintptr_t y,
                          device::Execution execution) {
  device::run_unlocked(device::avg_pool_2x2_forward,
                       {avg_pool_2x2(dtype, shape), address(x), address(y)}, execution);
}

void avg_pool_2x2_backward(int dtype, const Integers& shape, uintptr_t grad, uintptr_t grad_x,
                           device::Execution execution) {
  device::run_unlocked(device::avg_pool_2x2_backward,
                       {avg_pool_2x2(dtype, shape), address(grad), address(grad_x)}, execution);
}

const Binding avg_pool_2x2_binding([](py::module_& module) {
  define_kernel(module, "avg_pool_2x2_forward", &avg_pool_2x2_forward);
  define_kernel(module, "avg_pool_2x2_backward", &avg_pool_2x2_backward);
});

}  // namespace
}  // namespace asose
