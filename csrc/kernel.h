// An operator's header declares its kernels by ASOSE_KERNEL(name, Arguments): cpu::name takes the
// arguments and a number of threads, cuda::name the arguments and a stream. A device that lacks the
// kernel only lacks the definition.
#pragma once

struct CUstream_st;

namespace asose::cuda {

// Launches are asynchronous on a stream of the current device. They neither allocate nor
// synchronize, so that CUDA graphs can capture them, and throw std::runtime_error with CUDA's text.
using Stream = CUstream_st*;

}  // namespace asose::cuda

#ifdef ASOSE_ISA

// The CPU kernels themselves are compiled once an instruction set, each of which knows its own.
#define ASOSE_KERNEL(name, Arguments)       \
  namespace cpu::ASOSE_ISA {                \
  void name(const Arguments&, int threads); \
  }                                         \
  static_assert(true, "a semicolon follows")

#else

#include "runtime/instruction_set.h"

#define ASOSE_DECLARE(isa, name, Arguments) \
  namespace isa {                           \
  void name(const Arguments&, int threads); \
  }
#define ASOSE_CASE(isa, name, Arguments) \
  case InstructionSet::isa:              \
    return isa::name(arguments, threads);

// Whoever calls them gets the instruction set of this process.
#define ASOSE_KERNEL(name, Arguments)                                                  \
  namespace cpu {                                                                      \
  ASOSE_INSTRUCTION_SETS(ASOSE_DECLARE, name, Arguments)                               \
  inline void name(const Arguments& arguments, int threads) {                          \
    switch (instruction_set()) { ASOSE_INSTRUCTION_SETS(ASOSE_CASE, name, Arguments) } \
  }                                                                                    \
  }                                                                                    \
  namespace cuda {                                                                     \
  void name(const Arguments&, Stream stream);                                          \
  }                                                                                    \
  static_assert(true, "a semicolon follows")

#endif
