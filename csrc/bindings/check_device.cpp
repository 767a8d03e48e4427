#include "../cuda/check_device.h"

#include "module.h"

namespace asose {
namespace {

const Binding check_device_binding([](py::module_& module) {
  module.def("check_device", &cuda::check_device);
});

}  // namespace
}  // namespace asose
