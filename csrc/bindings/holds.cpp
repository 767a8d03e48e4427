#include <pybind11/pybind11.h>

#include "module.h"

namespace asose {
namespace {

// Whether each of `dicts` has as many values as `lengths` says, and these, one dict after the
// other, are `values` themselves.
bool holds(const py::list& dicts, const py::list& lengths, const py::list& values) {
  const Py_ssize_t count = PyList_GET_SIZE(values.ptr());
  Py_ssize_t found = 0;
  for (Py_ssize_t d = 0; d < PyList_GET_SIZE(dicts.ptr()); ++d) {
    PyObject* const dict = PyList_GET_ITEM(dicts.ptr(), d);
    const Py_ssize_t length = PyLong_AsSsize_t(PyList_GET_ITEM(lengths.ptr(), d));
    if (PyDict_Size(dict) != length || count - found < length) return false;
    PyObject* value;
    for (Py_ssize_t place = 0; PyDict_Next(dict, &place, nullptr, &value); ++found)
      if (value != PyList_GET_ITEM(values.ptr(), found)) return false;
  }
  return found == count;
}

const Binding holds_binding([](py::module_& module) { module.def("holds", &holds); });

}  // namespace
}  // namespace asose
