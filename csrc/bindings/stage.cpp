#include "../stage.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "depthwise.h"
#include "device.h"
#include "module.h"
#include "strided_weights.h"

namespace asose {
namespace {

StageNorms stage_norms(int count, const Addresses& tables) {
  expect_at_least("norms", count, 0);
  expect_count("tables", tables.size(), 4);
  return {count, address<double>(tables[0]), address<double>(tables[1]), address<double>(tables[2]),
          address<double>(tables[3])};
}

// The addresses are those of x[0..inputs), z[0..branches); the tables are those of mean, rstd,
// gamma and beta.
void stage_forward(int dtype, int wide, const Integers& shape, const Integers& dilations,
                   int stride, int inputs, const Integers& depthwise_weights,
                   const Integers& pointwise_weights, int norms, const Addresses& tables,
                   const Addresses& addresses, uintptr_t params, uintptr_t matrices,
                   uintptr_t blocked, uintptr_t partials, uintptr_t mean, uintptr_t var,
                   uintptr_t scratch, device::Execution execution) {
  const int branches = static_cast<int>(dilations.size());
  const auto of_depthwise = strided_weights(depthwise_weights, branches);
  const auto of_pointwise = strided_weights(pointwise_weights, branches);
  const Integers kernels = sides(of_depthwise);
  MultiDepthwise op = depthwise(dtype, shape, kernels, dilations, stride, true, norms > 0, inputs);
  expect_count("addresses", addresses.size(), op.inputs + op.branches);
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  device::run_unlocked(
      device::stage_forward,
      {{static_cast<DType>(wide), branches, op.channels, of_depthwise.data(), of_pointwise.data(),
        stage_norms(norms, tables), address(params), address(matrices)},
       {{op, address(matrices), address(blocked)},
        all.data() + inputs,
        address<double>(partials),
        address<double>(mean),
        address<double>(var)}},
      execution);
}

// The addresses are those of x[0..inputs), grad[0..branches), z[0..branches), grad_x[0..inputs).
// There are so many rows of the tables of outputs, of which those of the norms come first.
void stage_backward(int dtype, int wide, const Integers& shape, const Integers& dilations,
                    int stride, int inputs, const Integers& depthwise_weights,
                    const Integers& pointwise_weights, int norms, const Addresses& tables,
                    const Addresses& addresses, uintptr_t params, uintptr_t matrices,
                    uintptr_t blocked, uintptr_t of_outputs, bool need_depthwise,
                    bool need_pointwise, bool need_sums, uintptr_t partials,
                    uintptr_t partials_pointwise, uintptr_t grad_params, uintptr_t grad_matrices,
                    uintptr_t s0, uintptr_t s1, uintptr_t of_inputs, int64_t rows,
                    uintptr_t scratch, device::Execution execution) {
  const int branches = static_cast<int>(dilations.size());
  const auto of_depthwise = strided_weights(depthwise_weights, branches);
  const auto of_pointwise = strided_weights(pointwise_weights, branches);
  const Integers kernels = sides(of_depthwise);
  MultiDepthwise op = depthwise(dtype, shape, kernels, dilations, stride, true, norms > 0, inputs);
  expect_count("addresses", addresses.size(), 2 * (op.inputs + op.branches));
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  void* const* grad = all.data() + inputs;
  const auto used = std::make_unique<bool[]>(branches);
  std::transform(grad, grad + branches, used.get(), [](void* given) { return given != nullptr; });
  const Separable separable{op, address(matrices), address(blocked)};
  expect_at_least("rows", rows, norms);
  const int64_t row = 4 * op.channels * accumulation_bytes(static_cast<DType>(wide));
  device::run_unlocked(
      device::stage_backward,
      {{separable, grad, grad + branches, address(of_outputs), grad + 2 * branches, need_depthwise,
        need_pointwise, need_sums, address(partials), address(partials_pointwise),
        address(grad_params), address(grad_matrices)},
       {static_cast<DType>(wide), branches, op.channels, address(grad_params),
        address(grad_matrices), SeparableTiling(separable).padded_channels, of_depthwise.data(),
        of_pointwise.data(), stage_norms(norms, tables), used.get(), need_sums,
        static_cast<double>(op.images * op.height * op.width), address<double>(s0),
        address<double>(s1), address(of_inputs)},
       norms ? (rows - norms) * row : 0},
      execution);
}

const Binding stage_binding([](py::module_& module) {
  define_kernel(module, "stage_forward", &stage_forward);
  define_kernel(module, "stage_backward", &stage_backward);
});

}  // namespace
}  // namespace asose
