// The instruction sets that the CPU kernels are built for, and the one that this process uses.
#pragma once

// It expands to use(isa, ...) for each of them.
#ifdef ASOSE_X86
#define ASOSE_INSTRUCTION_SETS(use, ...) \
  use(generic, __VA_ARGS__) use(avx2, __VA_ARGS__) use(avx512, __VA_ARGS__)
#else
#define ASOSE_INSTRUCTION_SETS(use, ...) use(generic, __VA_ARGS__)
#endif

namespace asose::cpu {

#define ASOSE_ENUMERATOR(isa, ...) isa,
enum class InstructionSet { ASOSE_INSTRUCTION_SETS(ASOSE_ENUMERATOR, ) };
#undef ASOSE_ENUMERATOR

// It is chosen at the first call: the widest that this processor runs, or the one that ASOSE_ISA
// names. Throws std::runtime_error where that one was not built or cannot run here.
InstructionSet instruction_set();

const char* name_of(InstructionSet isa);

}  // namespace asose::cpu
