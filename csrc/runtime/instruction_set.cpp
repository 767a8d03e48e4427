#include "instruction_set.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace asose::cpu {
namespace {

struct Candidate {
  InstructionSet isa;
  bool runs_here;
};

InstructionSet choose() {
#ifdef ASOSE_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const Candidate candidates[] = {{InstructionSet::avx512, has_avx512},
                                  {InstructionSet::avx2, has_avx2},
                                  {InstructionSet::generic, true}};
#else
  const Candidate candidates[] = {{InstructionSet::generic, true}};
#endif
  const char* wanted = std::getenv("ASOSE_ISA");
  std::string runnable;
  for (const Candidate& candidate : candidates) {
    if (!candidate.runs_here) continue;
    const std::string name = name_of(candidate.isa);
    if (!wanted || !*wanted || wanted == name) return candidate.isa;
    runnable += (runnable.empty() ? "" : ", ") + name;
  }
  throw std::runtime_error("ASOSE_ISA=" + std::string(wanted) +
                           " is not one of the instruction sets that run here: " + runnable);
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

const char* name_of(InstructionSet isa) {
#define ASOSE_NAME(isa, ...) \
  case InstructionSet::isa:  \
    return #isa;
  switch (isa) { ASOSE_INSTRUCTION_SETS(ASOSE_NAME, ) }
#undef ASOSE_NAME
  return "";
}

}  // namespace asose::cpu
