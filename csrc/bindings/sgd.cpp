#include "../sgd.h"

#include <cstdint>
#include <vector>

#include "chunks.h"
#include "device.h"
#include "module.h"
#include "tensors.h"

namespace asose {
namespace {

// Gives whether it took the step: it does where each parameter, its gradient and, if there is any,
// its momentum are dense tensors in the same order. Otherwise nothing has been touched.
bool sgd(const py::capsule& exchange, const py::list& parameters, const py::list& gradients,
         const py::list& momenta, int norm_dtype, uintptr_t norm, double bound, double rate,
         double momentum, double decay, bool nesterov, device::Execution execution) {
  const int64_t count = static_cast<int64_t>(parameters.size());
  expect_count("gradients", gradients.size(), count);
  if (!momenta.empty()) expect_count("momenta", momenta.size(), count);
  const Exchange tensors(exchange);
  std::vector<SgdChunk> chunks;
  for (int64_t k = 0; k < count; ++k) {
    const auto p = tensors.dense(parameters[k].ptr());
    const auto g = tensors.dense(gradients[k].ptr());
    if (!p || !g || !g->is_like(*p)) return false;
    uintptr_t velocity = 0;
    if (!momenta.empty()) {
      const auto m = tensors.dense(momenta[k].ptr());
      if (!m || !m->is_like(*p)) return false;
      velocity = m->address;
    }
    for_chunks(p->elements, [&](int64_t first, int64_t size) {
      const auto at = [&](uintptr_t array) { return element_address(p->dtype, array, first); };
      chunks.push_back(
          {p->dtype, size, at(p->address), at(g->address), velocity ? at(velocity) : nullptr});
    });
  }
  device::run_unlocked(device::sgd,
                       {static_cast<int64_t>(chunks.size()), chunks.data(), wide_dtype(norm_dtype),
                        address(norm), bound, rate, momentum, decay, nesterov},
                       execution);
  return true;
}

const Binding sgd_binding([](py::module_& module) { module.def("sgd", &sgd); });

}  // namespace
}  // namespace asose
