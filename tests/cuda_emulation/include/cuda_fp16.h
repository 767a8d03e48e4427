// CUDA's float16 on the host, as the compiler has it.
#pragma once

#include "cuda_runtime.h"

struct __half {
  _Float16 value;

  __half() = default;
  explicit __half(float wide) : value(static_cast<_Float16>(wide)) {}
  operator float() const { return static_cast<float>(value); }
};
