#include "module.h"

#include <cstdint>
#include <vector>

#include "launch.h"

namespace asose {

std::vector<void (*)(py::module_&)>& Binding::all() {
  static std::vector<void (*)(py::module_&)> definitions;
  return definitions;
}

namespace {

// The modules of two devices have a class each.
const Binding launch_binding([](py::module_& module) {
  py::class_<Launch>(module, "Launch", py::module_local());
  py::class_<Program>(module, "Program", py::module_local())
      .def(py::init<std::vector<Launch>, int64_t>())
      .def("run", &Program::run);
});

}  // namespace
}  // namespace asose

PYBIND11_MODULE(ASOSE_DEVICE, module) {
  module.attr("source_digest") = ASOSE_SOURCE_DIGEST;
  for (const auto define : asose::Binding::all()) define(module);
}
