// CUDA's bfloat16 on the host, rounded as the CPU's kernels round it.
#pragma once

#include <dtype.h>

#include "cuda_runtime.h"

struct __nv_bfloat16 {
  asose::bfloat16 value;

  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float wide) : value(asose::Element<asose::bfloat16>::store(wide)) {}
  operator float() const { return asose::Element<asose::bfloat16>::load(value); }
};
