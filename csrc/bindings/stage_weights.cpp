#include "../stage_weights.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "arguments.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

// Of each weight: dtype, address, columns, side, and three strides.
std::vector<StridedWeight> strided_weights(const Integers& values, int branches) {
  constexpr int kValues = 7;
  expect_count("weights", values.size(), kValues * branches);
  std::vector<StridedWeight> weights;
  weights.reserve(branches);
  for (int b = 0; b < branches; ++b) {
    const int64_t* of = values.data() + kValues * b;
    expect_at_least("columns", of[2], 1);
    expect_at_least("side", of[3], 1);
    weights.push_back({static_cast<DType>(of[0]),
                       address(static_cast<uintptr_t>(of[1])),
                       of[2],
                       of[3],
                       {of[4], of[5], of[6]}});
  }
  return weights;
}

StageNorms stage_norms(int count, const Addresses& tables) {
  expect_at_least("norms", count, 0);
  expect_count("tables", tables.size(), 4);
  return {count, address<double>(tables[0]), address<double>(tables[1]), address<double>(tables[2]),
          address<double>(tables[3])};
}

// The tables are those of mean, rstd, gamma and beta.
void stage_weights_forward(int dtype, int branches, int64_t channels, const Integers& depthwise,
                           const Integers& pointwise, int norms, const Addresses& tables,
                           uintptr_t params, uintptr_t matrices, device::Execution execution) {
  expect_at_least("branches", branches, 1);
  expect_at_least("channels", channels, 1);
  const auto of_depthwise = strided_weights(depthwise, branches);
  const auto of_pointwise = strided_weights(pointwise, branches);
  device::run(device::stage_weights_forward,
              {static_cast<DType>(dtype), branches, channels, of_depthwise.data(),
               of_pointwise.data(), stage_norms(norms, tables), address(params), address(matrices)},
              execution);
}

void stage_weights_backward(int dtype, int branches, int64_t channels, uintptr_t grad_params,
                            uintptr_t grad_matrices, const Integers& depthwise,
                            const Integers& pointwise, int norms, const Addresses& tables,
                            const std::vector<bool>& used, bool has_sums, int64_t pixels,
                            uintptr_t s0, uintptr_t s1, uintptr_t out,
                            device::Execution execution) {
  expect_at_least("branches", branches, 1);
  expect_at_least("channels", channels, 1);
  expect_between("norms", norms, 0, branches);
  expect_count("used", used.size(), branches);
  const auto of_depthwise = strided_weights(depthwise, branches);
  const auto of_pointwise = strided_weights(pointwise, branches);
  const auto flags = std::make_unique<bool[]>(branches);
  std::copy(used.begin(), used.end(), flags.get());
  device::run(
      device::stage_weights_backward,
      {static_cast<DType>(dtype), branches, channels, address(grad_params), address(grad_matrices),
       of_depthwise.data(), of_pointwise.data(), stage_norms(norms, tables), flags.get(), has_sums,
       static_cast<double>(pixels), address<double>(s0), address<double>(s1), address(out)},
      execution);
}

const Binding stage_weights_binding([](py::module_& module) {
  module.def("stage_weights_forward", &stage_weights_forward);
  module.def("stage_weights_backward", &stage_weights_backward);
});

}  // namespace
}  // namespace asose
