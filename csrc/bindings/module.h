// The Python module of one device, which every file of this folder adds its functions to.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

namespace asose {

namespace py = pybind11;

// Has `define` called when the module is imported.
class Binding {
 public:
  explicit Binding(void (*define)(py::module_&)) { all().push_back(define); }

  static std::vector<void (*)(py::module_&)>& all();
};

}  // namespace asose
