#include "../total_norm.h"

#include <cstdint>
#include <vector>

#include "chunks.h"
#include "device.h"
#include "module.h"
#include "tensors.h"

namespace asose {
namespace {

// Gives whether it wrote the norm: it does where all tensors are dense.
bool total_norm(const py::capsule& exchange, const py::list& arrays, int dtype, uintptr_t norm,
                device::Execution execution) {
  const Exchange tensors(exchange);
  std::vector<NormChunk> chunks;
  for (const py::handle array : arrays) {
    const auto found = tensors.dense(array.ptr());
    if (!found) return false;
    for_chunks(found->elements, [&](int64_t first, int64_t size) {
      chunks.push_back(
          {found->dtype, element_address(found->dtype, found->address, first), size, 0});
    });
  }
  device::run_unlocked(
      device::total_norm,
      {static_cast<int64_t>(chunks.size()), chunks.data(), wide_dtype(dtype), address(norm)},
      execution);
  return true;
}

const Binding total_norm_binding([](py::module_& module) {
  module.def("total_norm", &total_norm);
});

}  // namespace
}  // namespace asose
