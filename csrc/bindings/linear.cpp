#include "../linear.h"

#include <cstdint>
#include <memory>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

// One shape of a call, on so many threads.
class LinearPlan {
 public:
  LinearPlan(int dtype, int64_t rows, int64_t inputs, int64_t outputs, device::Execution threads)
      : op_{static_cast<DType>(dtype), rows, inputs, outputs}, threads_(threads) {
    expect_at_least("rows", rows, 0);
    expect_at_least("inputs", inputs, 0);
    expect_at_least("outputs", outputs, 0);
    expect_at_least("threads", threads, 1);
  }

  int64_t forward_bytes() const { return op_.turned_bytes(); }

  // The addresses are those of x, weight, bias, y and the workspace.
  void forward(const Addresses& addresses) const {
    expect_count("addresses", addresses.size(), 5);
    const auto to = pointers(addresses);
    device::run_unlocked(device::linear_forward, {op_, to[0], to[1], to[2], to[4], to[3]},
                         threads_);
  }

  // The addresses are those of grad, x and weight, and of the gradients of x, weight and bias.
  void backward(const Addresses& addresses) const {
    expect_count("addresses", addresses.size(), 6);
    const auto to = pointers(addresses);
    device::run_unlocked(device::linear_backward, {op_, to[0], to[1], to[2], to[3], to[4], to[5]},
                         threads_);
  }

 private:
  Linear op_;
  device::Execution threads_;
};

const Binding linear_binding([](py::module_& module) {
  py::class_<LinearPlan, std::shared_ptr<LinearPlan>> plans(module, "LinearPlan");
  plans.def(py::init<int, int64_t, int64_t, int64_t, device::Execution>())
      .def_property_readonly("forward_bytes", &LinearPlan::forward_bytes);
  define_kernel(plans, "forward", &LinearPlan::forward);
  define_kernel(plans, "backward", &LinearPlan::backward);
});

}  // namespace
}  // namespace asose
