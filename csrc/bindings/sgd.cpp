#include "../sgd.h"

#include <cstdint>
#include <vector>

#include "chunks.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

// Lists of the parameters: their dtypes, elements and addresses, those of their gradients and,
// maybe, of their momenta.
void sgd(const std::vector<int>& dtypes, const Integers& elements, const Addresses& parameters,
         const Addresses& gradients, const Addresses& momenta, int norm_dtype, uintptr_t norm,
         double bound, double rate, double momentum, double decay, bool nesterov,
         device::Execution execution) {
  const int64_t count = static_cast<int64_t>(parameters.size());
  expect_count("dtypes", dtypes.size(), count);
  expect_count("elements", elements.size(), count);
  expect_count("gradients", gradients.size(), count);
  if (!momenta.empty()) expect_count("momenta", momenta.size(), count);
  std::vector<SgdChunk> chunks;
  for (int64_t k = 0; k < count; ++k) {
    const DType dtype = wide_dtype(dtypes[k]);
    for_chunks(elements[k], [&](int64_t first, int64_t size) {
      const auto at = [&](uintptr_t array) { return element_address(dtype, array, first); };
      chunks.push_back({dtype, size, at(parameters[k]), at(gradients[k]),
                        momenta.empty() ? nullptr : at(momenta[k])});
    });
  }
  device::run_unlocked(device::sgd,
                       {static_cast<int64_t>(chunks.size()), chunks.data(), wide_dtype(norm_dtype),
                        address(norm), bound, rate, momentum, decay, nesterov},
                       execution);
}

const Binding sgd_binding([](py::module_& module) { define_kernel(module, "sgd", &sgd); });

}  // namespace
}  // namespace asose
