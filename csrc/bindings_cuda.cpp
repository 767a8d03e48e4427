// Python module of the CUDA kernels: the functions of bindings.cpp, with the stream in place of the
// thread count. A failed launch raises RuntimeError.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <vector>

#include "bindings.h"
#include "cuda/launch.h"

namespace py = pybind11;

namespace asose {
namespace {

cuda::Stream as_stream(uintptr_t stream) { return reinterpret_cast<cuda::Stream>(stream); }

void arch_weights_forward(int dtype, int64_t layers, int64_t ops, uintptr_t logits, uintptr_t noise,
                          uintptr_t rng, double temperature, bool hard, int top_k, double amount,
                          double below, int skip, int none, uintptr_t weights, uintptr_t soft,
                          uintptr_t index, uintptr_t entropy, uintptr_t max_prob,
                          uintptr_t stream) {
  expect_arch_weights(layers, ops);
  cuda::arch_weights_forward(
      {static_cast<DType>(dtype), layers, ops, address(logits),
       static_cast<const double*>(address(noise)), static_cast<const int64_t*>(address(rng)),
       temperature, hard, BoostRule{top_k, amount, below, skip, none}, address(weights),
       address(soft), static_cast<int64_t*>(address(index)), address(entropy), address(max_prob)},
      as_stream(stream));
}

void arch_weights_backward(int dtype, int64_t layers, int64_t ops, uintptr_t grad, uintptr_t soft,
                           double temperature, uintptr_t grad_logits, uintptr_t stream) {
  expect_arch_weights(layers, ops);
  cuda::arch_weights_backward({static_cast<DType>(dtype), layers, ops, address(grad), address(soft),
                               temperature, address(grad_logits)},
                              as_stream(stream));
}

int64_t mixed_sum_tasks(const std::vector<int64_t>& sizes) {
  return cuda::mixed_sum_tasks({static_cast<int>(sizes.size()), sizes.data()});
}

// Operands: x[0..inputs), y.
void mixed_sum_forward(int dtype, int inputs, const std::vector<int64_t>& sizes,
                       const std::vector<uintptr_t>& addresses, const std::vector<int64_t>& strides,
                       uintptr_t weights, uintptr_t stream) {
  expect_operands(inputs, 1, sizes, addresses, strides);
  const auto all = operands(addresses, strides, sizes.size());
  cuda::mixed_sum_forward({static_cast<DType>(dtype),
                           {static_cast<int>(sizes.size()), sizes.data()},
                           inputs,
                           all.data(),
                           address(weights),
                           all[inputs],
                           0},
                          as_stream(stream));
}

// Operands: x[0..inputs), grad, grad_x[0..inputs).
void mixed_sum_backward(int dtype, int inputs, const std::vector<int64_t>& sizes,
                        const std::vector<uintptr_t>& addresses,
                        const std::vector<int64_t>& strides, uintptr_t weights, uintptr_t partials,
                        uintptr_t grad_weights, uintptr_t stream) {
  expect_operands(inputs, 2, sizes, addresses, strides);
  const auto all = operands(addresses, strides, sizes.size());
  cuda::mixed_sum_backward({static_cast<DType>(dtype),
                            {static_cast<int>(sizes.size()), sizes.data()},
                            inputs,
                            all.data(),
                            address(weights),
                            all[inputs],
                            all.data() + inputs + 1,
                            static_cast<double*>(address(partials)),
                            address(grad_weights),
                            0},
                           as_stream(stream));
}

// Slices of the partial sums; no bytes of scratch.
py::tuple multi_depthwise_plan(int dtype, const std::vector<int64_t>& shape,
                               const std::vector<int64_t>& kernels,
                               const std::vector<int64_t>& dilations, int stride, bool affine,
                               int inputs) {
  return py::make_tuple(cuda::multi_depthwise_slices(multi_depthwise(
                            dtype, shape, kernels, dilations, stride, false, affine, inputs, 0)),
                        0);
}

// Addresses: x[0..inputs), y[0..branches).
void multi_depthwise_forward(int dtype, const std::vector<int64_t>& shape,
                             const std::vector<int64_t>& kernels,
                             const std::vector<int64_t>& dilations, int stride, bool relu,
                             bool affine, int inputs, const std::vector<uintptr_t>& addresses,
                             uintptr_t params, uintptr_t, uintptr_t stream) {
  MultiDepthwise op =
      multi_depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs, 0);
  expect_count("addresses", addresses.size(), op.inputs + op.branches);
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params);
  cuda::multi_depthwise_forward({op, all.data() + inputs}, as_stream(stream));
}

// Addresses: x[0..inputs), grad[0..branches), grad_x[0..inputs).
void multi_depthwise_backward(int dtype, const std::vector<int64_t>& shape,
                              const std::vector<int64_t>& kernels,
                              const std::vector<int64_t>& dilations, int stride, bool relu,
                              bool affine, int inputs, const std::vector<uintptr_t>& addresses,
                              uintptr_t params, bool need_weights, bool need_affine,
                              uintptr_t partials, uintptr_t grad_params, uintptr_t,
                              uintptr_t stream) {
  MultiDepthwise op =
      multi_depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs, 0);
  expect_count("addresses", addresses.size(), 2 * op.inputs + op.branches);
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params);
  cuda::multi_depthwise_backward(
      {op, all.data() + inputs, all.data() + inputs + op.branches, need_weights, need_affine,
       address(partials), address(grad_params)},
      as_stream(stream));
}

}  // namespace
}  // namespace asose

PYBIND11_MODULE(cuda, module) {
  module.attr("source_digest") = ASOSE_SOURCE_DIGEST;
  module.attr("max_ops") = asose::kMaxOps;
  module.attr("max_inputs") = asose::kMaxInputs;
  module.attr("max_dims") = asose::kMaxDims;
  module.def("check_device", &asose::cuda::check_device);
  module.def("arch_weights_forward", &asose::arch_weights_forward);
  module.def("arch_weights_backward", &asose::arch_weights_backward);
  module.def("mixed_sum_tasks", &asose::mixed_sum_tasks);
  module.def("mixed_sum_forward", &asose::mixed_sum_forward);
  module.def("mixed_sum_backward", &asose::mixed_sum_backward);
  module.def("multi_depthwise_plan", &asose::multi_depthwise_plan);
  module.def("multi_depthwise_forward", &asose::multi_depthwise_forward);
  module.def("multi_depthwise_backward", &asose::multi_depthwise_backward);
}
