// Member functions of the types that the kernels of all instruction sets share are inlined wherever
// they are called, so that no copy of the kernels emits a function that another one then runs.
#pragma once

#define ASOSE_INLINE inline __attribute__((always_inline))
