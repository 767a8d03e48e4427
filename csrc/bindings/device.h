// `device` is the namespace of the kernels that this module binds: a file of this folder is
// compiled once for every device that has kernels of its name, as a CPU kernel is once an
// instruction set.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>

#include "../kernel.h"
#include "arguments.h"

namespace asose {

namespace cpu {

// Python passes the number of threads last.
using Execution = int;

template <class Arguments>
void run(void (*kernel)(const Arguments&, int), const Arguments& arguments, Execution threads) {
  expect_between("threads", threads, 1, std::numeric_limits<int>::max());
  kernel(arguments, threads);
}

// It runs the kernel while other Python threads go on.
template <class Arguments>
void run_unlocked(void (*kernel)(const Arguments&, int), const Arguments& arguments,
                  Execution threads) {
  const pybind11::gil_scoped_release unlocked;
  run(kernel, arguments, threads);
}

}  // namespace cpu

namespace cuda {

// Python passes the handle of the stream last.
using Execution = uintptr_t;

template <class Arguments>
void run(void (*kernel)(const Arguments&, Stream), const Arguments& arguments, Execution stream) {
  kernel(arguments, reinterpret_cast<Stream>(stream));
}

// A launch does not wait for its kernel: it is over sooner than the lock could be had back.
template <class Arguments>
void run_unlocked(void (*kernel)(const Arguments&, Stream), const Arguments& arguments,
                  Execution stream) {
  run(kernel, arguments, stream);
}

}  // namespace cuda

namespace device = ASOSE_DEVICE;

}  // namespace asose
