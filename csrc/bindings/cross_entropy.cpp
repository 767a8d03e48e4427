#include "../cross_entropy.h"

#include <cstdint>
#include <stdexcept>
#include <string>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

CrossEntropy cross_entropy(int dtype, int64_t rows, int64_t classes, uintptr_t labels,
                           double smoothing) {
  expect_at_least("rows", rows, 0);
  expect_at_least("classes", classes, 1);
  return {static_cast<DType>(dtype), rows, classes, address<int64_t>(labels), smoothing};
}

void cross_entropy_forward(int dtype, int64_t rows, int64_t classes, uintptr_t labels,
                           double smoothing, uintptr_t scores, uintptr_t probabilities,
                           uintptr_t loss, uintptr_t correct, device::Execution execution) {
  const CrossEntropy op = cross_entropy(dtype, rows, classes, labels, smoothing);
  for (int64_t n = 0; n < rows; ++n)
    if (!op.counts(n) && op.labels[n] != CrossEntropy::kIgnored)
      throw std::out_of_range("Target " + std::to_string(op.labels[n]) + " is out of bounds.");
  device::run(
      device::cross_entropy_forward,
      {op, address(scores), address(probabilities), address(loss), address<int64_t>(correct)},
      execution);
}

void cross_entropy_backward(int dtype, int64_t rows, int64_t classes, uintptr_t labels,
                            double smoothing, uintptr_t grad, uintptr_t probabilities,
                            uintptr_t grad_scores, device::Execution execution) {
  device::run(device::cross_entropy_backward,
              {cross_entropy(dtype, rows, classes, labels, smoothing), address(grad),
               address(probabilities), address(grad_scores)},
              execution);
}

const Binding cross_entropy_binding([](py::module_& module) {
  define_kernel(module, "cross_entropy_forward", &cross_entropy_forward);
  define_kernel(module, "cross_entropy_backward", &cross_entropy_backward);
});

}  // namespace
}  // namespace asose
