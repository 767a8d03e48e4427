#include "module.h"

namespace asose {

std::vector<void (*)(py::module_&)>& Binding::all() {
  static std::vector<void (*)(py::module_&)> definitions;
  return definitions;
}

}  // namespace asose

PYBIND11_MODULE(ASOSE_DEVICE, module) {
  module.attr("source_digest") = ASOSE_SOURCE_DIGEST;
  for (const auto define : asose::Binding::all()) define(module);
}
