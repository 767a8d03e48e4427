#include "../total_norm.h"

#include <cstdint>
#include <vector>

#include "chunks.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

// Lists of the arrays: their dtypes, elements and addresses.
void total_norm(const std::vector<int>& dtypes, const Integers& elements, const Addresses& arrays,
                int dtype, uintptr_t norm, device::Execution execution) {
  const int64_t count = static_cast<int64_t>(arrays.size());
  expect_count("dtypes", dtypes.size(), count);
  expect_count("elements", elements.size(), count);
  std::vector<NormChunk> chunks;
  for (int64_t k = 0; k < count; ++k) {
    const DType type = wide_dtype(dtypes[k]);
    for_chunks(elements[k], [&](int64_t first, int64_t size) {
      chunks.push_back({type, element_address(type, arrays[k], first), size, 0});
    });
  }
  device::run_unlocked(
      device::total_norm,
      {static_cast<int64_t>(chunks.size()), chunks.data(), wide_dtype(dtype), address(norm)},
      execution);
}

const Binding total_norm_binding([](py::module_& module) {
  define_kernel(module, "total_norm", &total_norm);
});

}  // namespace
}  // namespace asose
