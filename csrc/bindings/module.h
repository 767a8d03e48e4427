// The Python module of one device, which every file of this folder adds its functions to.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "launch.h"

namespace asose {

namespace py = pybind11;

// Has `define` called when the module is imported.
class Binding {
 public:
  explicit Binding(void (*define)(py::module_&)) { all().push_back(define); }

  static std::vector<void (*)(py::module_&)>& all();
};

// The name of what makes launches of a kernel: of the places, and of the arguments of a call.
inline std::string launch_name(const char* kernel) { return std::string(kernel) + "_launch"; }

// Defines a kernel, and what makes launches of it.
template <class... Arguments>
void define_kernel(py::module_& module, const char* name, void (*kernel)(Arguments...)) {
  module.def(name, kernel);
  module.def(launch_name(name).c_str(),
             [kernel](std::vector<Place> places, std::decay_t<Arguments>... arguments) {
               return Launch(kernel, std::make_tuple(std::move(arguments)...), std::move(places));
             });
}

// The same for a kernel of a plan, which lives as long as a launch.
template <class Plan, class... Arguments>
void define_kernel(py::class_<Plan, std::shared_ptr<Plan>>& plans, const char* name,
                   void (Plan::*kernel)(Arguments...) const) {
  plans.def(name, kernel);
  plans.def(
      launch_name(name).c_str(), [kernel](std::shared_ptr<Plan> plan, std::vector<Place> places,
                                          std::decay_t<Arguments>... arguments) {
        return Launch(
            [kernel, plan = std::move(plan)](const auto&... given) { ((*plan).*kernel)(given...); },
            std::make_tuple(std::move(arguments)...), std::move(places));
      });
}

}  // namespace asose
