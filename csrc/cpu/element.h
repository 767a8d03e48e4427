// An element type that is named at run time becomes one that the compiler knows.
#pragma once

#include <stdexcept>

#include "../dtype.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Calls body with a value of the type: float or double.
template <class Body>
void with_wide_element(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f32:
      return body(float{});
    case DType::f64:
      return body(double{});
    case DType::bf16:
    case DType::f16:
      break;
  }
  throw std::invalid_argument("this CPU kernel is not for this element type");
}

// The type may be bfloat16 too.
template <class Body>
void with_element(DType dtype, const Body& body) {
  if (dtype == DType::bf16) return body(bfloat16{});
  with_wide_element(dtype, body);
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
