#include "../runtime/instruction_set.h"

#include "module.h"

namespace asose {
namespace {

const Binding instruction_set_binding([](py::module_& module) {
  module.def("isa", [] { return cpu::name_of(cpu::instruction_set()); });
});

}  // namespace
}  // namespace asose
