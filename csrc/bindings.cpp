// Python module of the CPU kernels. Tensors arrive as addresses: the Python side owns every check
// of them.
#include "bindings.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace py = pybind11;

namespace asose {
namespace {

void arch_weights_forward(int dtype, int64_t layers, int64_t ops, uintptr_t logits, uintptr_t noise,
                          uintptr_t rng, double temperature, bool hard, int top_k, double amount,
                          double below, int skip, int none, uintptr_t weights, uintptr_t soft,
                          uintptr_t index, uintptr_t entropy, uintptr_t max_prob, int /*threads*/) {
  cpu::kernels().arch_weights_forward(
      {static_cast<DType>(dtype), layers, ops, address(logits),
       static_cast<const double*>(address(noise)), static_cast<const int64_t*>(address(rng)),
       temperature, hard, BoostRule{top_k, amount, below, skip, none}, address(weights),
       address(soft), static_cast<int64_t*>(address(index)), address(entropy), address(max_prob)});
}

void arch_weights_backward(int dtype, int64_t layers, int64_t ops, uintptr_t grad, uintptr_t soft,
                           double temperature, uintptr_t grad_logits, int /*threads*/) {
  cpu::kernels().arch_weights_backward({static_cast<DType>(dtype), layers, ops, address(grad),
                                        address(soft), temperature, address(grad_logits)});
}

int64_t mixed_sum_tasks(const std::vector<int64_t>& sizes) {
  return TaskGrid({static_cast<int>(sizes.size()), sizes.data()}).tasks();
}

// Operands: x[0..inputs), y.
void mixed_sum_forward(int dtype, int inputs, const std::vector<int64_t>& sizes,
                       const std::vector<uintptr_t>& addresses, const std::vector<int64_t>& strides,
                       uintptr_t weights, int threads) {
  const auto all = operands(addresses, strides, sizes.size());
  py::gil_scoped_release unlocked;
  cpu::kernels().mixed_sum_forward({static_cast<DType>(dtype),
                                    {static_cast<int>(sizes.size()), sizes.data()},
                                    inputs,
                                    all.data(),
                                    address(weights),
                                    all[inputs],
                                    threads});
}

// Operands: x[0..inputs), grad, grad_x[0..inputs).
void mixed_sum_backward(int dtype, int inputs, const std::vector<int64_t>& sizes,
                        const std::vector<uintptr_t>& addresses,
                        const std::vector<int64_t>& strides, uintptr_t weights, uintptr_t partials,
                        uintptr_t grad_weights, int threads) {
  const auto all = operands(addresses, strides, sizes.size());
  py::gil_scoped_release unlocked;
  cpu::kernels().mixed_sum_backward({static_cast<DType>(dtype),
                                     {static_cast<int>(sizes.size()), sizes.data()},
                                     inputs,
                                     all.data(),
                                     address(weights),
                                     all[inputs],
                                     all.data() + inputs + 1,
                                     static_cast<double*>(address(partials)),
                                     address(grad_weights),
                                     threads});
}

int64_t lane_groups(int64_t outer, int64_t channels, int64_t inner) {
  return LaneGrid({outer, channels, inner}, kSumRows).groups();
}

// Tensors: z[0..inputs).
void batch_statistics(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                      const std::vector<uintptr_t>& tensors, uintptr_t partials, uintptr_t mean,
                      uintptr_t var, int threads) {
  const auto all = pointers(tensors);
  py::gil_scoped_release unlocked;
  cpu::kernels().batch_statistics({static_cast<DType>(dtype),
                                   {outer, channels, inner},
                                   inputs,
                                   all.data(),
                                   static_cast<double*>(address(partials)),
                                   static_cast<double*>(address(mean)),
                                   static_cast<double*>(address(var)),
                                   threads});
}

// Tensors: z[0..inputs), y.
void mixed_norm_sum_forward(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                            const std::vector<uintptr_t>& tensors, uintptr_t weights,
                            uintptr_t scale, uintptr_t center, uintptr_t shift, int threads) {
  const auto all = pointers(tensors);
  py::gil_scoped_release unlocked;
  cpu::kernels().mixed_norm_sum_forward({static_cast<DType>(dtype),
                                         {outer, channels, inner},
                                         inputs,
                                         all.data(),
                                         address(weights),
                                         address(scale),
                                         address(center),
                                         address(shift),
                                         all[inputs],
                                         threads});
}

// Tensors: z[0..inputs), grad.
void mixed_norm_sum_reduce(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                           const std::vector<uintptr_t>& tensors, uintptr_t center,
                           uintptr_t partials, uintptr_t sums, int threads) {
  const auto all = pointers(tensors);
  py::gil_scoped_release unlocked;
  cpu::kernels().mixed_norm_sum_reduce({static_cast<DType>(dtype),
                                        {outer, channels, inner},
                                        inputs,
                                        all.data(),
                                        all[inputs],
                                        address(center),
                                        static_cast<double*>(address(partials)),
                                        static_cast<double*>(address(sums)),
                                        threads});
}

// Tensors: z[0..inputs), grad, grad_z[0..inputs).
void mixed_norm_sum_backward(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                             const std::vector<uintptr_t>& tensors, uintptr_t weights,
                             uintptr_t scale, uintptr_t center, uintptr_t slope, uintptr_t shift,
                             int threads) {
  const auto all = pointers(tensors);
  py::gil_scoped_release unlocked;
  cpu::kernels().mixed_norm_sum_backward({static_cast<DType>(dtype),
                                          {outer, channels, inner},
                                          inputs,
                                          all.data(),
                                          all[inputs],
                                          address(weights),
                                          address(scale),
                                          address(center),
                                          address(slope),
                                          address(shift),
                                          all.data() + inputs + 1,
                                          threads});
}

}  // namespace
}  // namespace asose

PYBIND11_MODULE(cpu, module) {
  module.attr("source_digest") = ASOSE_SOURCE_DIGEST;
  module.attr("max_ops") = asose::kMaxOps;
  module.attr("max_inputs") = asose::kMaxInputs;
  module.attr("max_dims") = asose::kMaxDims;
  module.def("isa", [] { return asose::cpu::kernels().isa; });
  module.def("arch_weights_forward", &asose::arch_weights_forward);
  module.def("arch_weights_backward", &asose::arch_weights_backward);
  module.def("mixed_sum_tasks", &asose::mixed_sum_tasks);
  module.def("mixed_sum_forward", &asose::mixed_sum_forward);
  module.def("mixed_sum_backward", &asose::mixed_sum_backward);
  module.def("lane_groups", &asose::lane_groups);
  module.def("batch_statistics", &asose::batch_statistics);
  module.def("mixed_norm_sum_forward", &asose::mixed_norm_sum_forward);
  module.def("mixed_norm_sum_reduce", &asose::mixed_norm_sum_reduce);
  module.def("mixed_norm_sum_backward", &asose::mixed_norm_sum_backward);
}
