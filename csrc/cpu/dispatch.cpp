// Chooses the instruction set at run time.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace asose::cpu {

namespace generic {
extern const Kernels table;
}
#ifdef ASOSE_X86
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

struct Candidate {
  const Kernels* table;
  bool runs_here;
};

const Kernels& choose() {
#ifdef ASOSE_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const Candidate candidates[] = {
      {&avx512::table, has_avx512}, {&avx2::table, has_avx2}, {&generic::table, true}};
#else
  const Candidate candidates[] = {{&generic::table, true}};
#endif
  const char* wanted = std::getenv("ASOSE_ISA");
  std::string runnable;
  for (const Candidate& candidate : candidates) {
    if (!candidate.runs_here) continue;
    if (!wanted || !*wanted || std::string(wanted) == candidate.table->isa) return *candidate.table;
    runnable += (runnable.empty() ? "" : ", ") + std::string(candidate.table->isa);
  }
  throw std::runtime_error("ASOSE_ISA=" + std::string(wanted) +
                           " is not one of the instruction sets that run here: " + runnable);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace asose::cpu
