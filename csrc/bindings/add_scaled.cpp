#include "../add_scaled.h"

#include <cstdint>

#include "device.h"
#include "module.h"

namespace asose {
namespace {

void add_scaled(int dtype, int64_t count, int factor_dtype, uintptr_t factor, uintptr_t x,
                uintptr_t to, device::Execution execution) {
  expect_at_least("count", count, 0);
  device::run_unlocked(device::add_scaled,
                       {static_cast<DType>(dtype), static_cast<DType>(factor_dtype), count,
                        address(factor), address(x), address(to)},
                       execution);
}

const Binding add_scaled_binding([](py::module_& module) {
  define_kernel(module, "add_scaled", &add_scaled);
});

}  // namespace
}  // namespace asose
