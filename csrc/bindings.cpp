// Python module of the CPU kernels. Tensors arrive as addresses: the Python side owns every check
// of them.
#include "bindings.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory_pool.h"
#include "dlpack.h"

namespace py = pybind11;

namespace asose {
namespace {

void expect_threads(int threads) {
  expect_between("threads", threads, 1, std::numeric_limits<int>::max());
}

void arch_weights_forward(int dtype, int64_t layers, int64_t ops, uintptr_t logits, uintptr_t noise,
                          uintptr_t rng, double temperature, bool hard, int top_k, double amount,
                          double below, int skip, int none, uintptr_t weights, uintptr_t soft,
                          uintptr_t index, uintptr_t entropy, uintptr_t max_prob, int /*threads*/) {
  expect_arch_weights(layers, ops);
  cpu::kernels().arch_weights_forward(
      {static_cast<DType>(dtype), layers, ops, address(logits),
       static_cast<const double*>(address(noise)), static_cast<const int64_t*>(address(rng)),
       temperature, hard, BoostRule{top_k, amount, below, skip, none}, address(weights),
       address(soft), static_cast<int64_t*>(address(index)), address(entropy), address(max_prob)});
}

void arch_weights_backward(int dtype, int64_t layers, int64_t ops, uintptr_t grad, uintptr_t soft,
                           double temperature, uintptr_t grad_logits, int /*threads*/) {
  expect_arch_weights(layers, ops);
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
  expect_operands(inputs, 1, sizes, addresses, strides);
  expect_threads(threads);
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
  expect_operands(inputs, 2, sizes, addresses, strides);
  expect_threads(threads);
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

// `shape` is (N, C, H, W) of the inputs.
struct PooledTensor {
  dlpack::ManagedTensor managed;
  std::vector<int64_t> shape, strides;
};

void return_to_pool(dlpack::ManagedTensor* managed) {
  cpu::MemoryPool::shared().give(managed->tensor.data);
  delete static_cast<PooledTensor*>(managed->context);
}

// From the first element to the last; throws std::bad_alloc where no memory is so large.
size_t bytes_of(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                int64_t element) {
  int64_t last = 0, bytes = 0;
  bool fits = true;
  for (size_t d = 0; d < shape.size(); ++d) {
    expect_between("a size", shape[d], 1, std::numeric_limits<int64_t>::max());
    expect_between("a stride", strides[d], 0, std::numeric_limits<int64_t>::max());
    int64_t step = 0;
    fits = fits && !__builtin_mul_overflow(shape[d] - 1, strides[d], &step) &&
           !__builtin_add_overflow(last, step, &last);
  }
  fits = fits && !__builtin_add_overflow(last, 1, &last) &&
         !__builtin_mul_overflow(last, element, &bytes);
  if (!fits) throw std::bad_alloc();
  return static_cast<size_t>(bytes);
}

// A DLPack capsule of an uninitialised tensor from the pool.
py::capsule pool_empty(int dtype, std::vector<int64_t> shape, std::vector<int64_t> strides) {
  expect_between("dtype", dtype, 0, static_cast<int>(DType::f16));
  expect_count("strides", strides.size(), static_cast<int64_t>(shape.size()));
  const DType type = static_cast<DType>(dtype);
  const uint8_t bits = type == DType::f64 ? 64 : type == DType::f32 ? 32 : 16;
  const size_t bytes = bytes_of(shape, strides, bits / 8);
  const uint8_t code = type == DType::bf16 ? dlpack::kBfloat : dlpack::kFloat;
  auto tensor = std::make_unique<PooledTensor>();
  tensor->shape = std::move(shape), tensor->strides = std::move(strides);
  tensor->managed = {{cpu::MemoryPool::shared().take(bytes),
                      {dlpack::kCpu, 0},
                      static_cast<int32_t>(tensor->shape.size()),
                      {code, bits, 1},
                      tensor->shape.data(),
                      tensor->strides.data(),
                      0},
                     tensor.get(),
                     return_to_pool};
  // Whoever takes the tensor renames the capsule; until then it owns the tensor.
  return py::capsule(&tensor.release()->managed, "dltensor", [](PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, "dltensor")) return;
    return_to_pool(static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor")));
  });
}

// Slices of the partial sums, and bytes of scratch a thread.
py::tuple multi_depthwise_plan(int dtype, const std::vector<int64_t>& shape,
                               const std::vector<int64_t>& kernels,
                               const std::vector<int64_t>& dilations, int stride, bool affine,
                               int inputs) {
  const DepthwiseTiling tiling(
      multi_depthwise(dtype, shape, kernels, dilations, stride, false, affine, inputs, 1));
  return py::make_tuple(tiling.slices, tiling.scratch_bytes);
}

// Addresses: x[0..inputs), y[0..branches).
void multi_depthwise_forward(int dtype, const std::vector<int64_t>& shape,
                             const std::vector<int64_t>& kernels,
                             const std::vector<int64_t>& dilations, int stride, bool relu,
                             bool affine, int inputs, const std::vector<uintptr_t>& addresses,
                             uintptr_t params, uintptr_t scratch, int threads) {
  MultiDepthwise op =
      multi_depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs, threads);
  expect_threads(threads);
  expect_count("addresses", addresses.size(), op.inputs + op.branches);
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  py::gil_scoped_release unlocked;
  cpu::kernels().multi_depthwise_forward({op, all.data() + inputs});
}

// Addresses: x[0..inputs), grad[0..branches), grad_x[0..inputs).
void multi_depthwise_backward(int dtype, const std::vector<int64_t>& shape,
                              const std::vector<int64_t>& kernels,
                              const std::vector<int64_t>& dilations, int stride, bool relu,
                              bool affine, int inputs, const std::vector<uintptr_t>& addresses,
                              uintptr_t params, bool need_weights, bool need_affine,
                              uintptr_t partials, uintptr_t grad_params, uintptr_t scratch,
                              int threads) {
  MultiDepthwise op =
      multi_depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs, threads);
  expect_threads(threads);
  expect_count("addresses", addresses.size(), 2 * op.inputs + op.branches);
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  py::gil_scoped_release unlocked;
  cpu::kernels().multi_depthwise_backward({op, all.data() + inputs,
                                           all.data() + inputs + op.branches, need_weights,
                                           need_affine, address(partials), address(grad_params)});
}

// Slices of the partial sums, channels in a row of pointwise, and bytes of scratch a thread.
py::tuple separable_plan(int dtype, const std::vector<int64_t>& shape,
                         const std::vector<int64_t>& kernels, const std::vector<int64_t>& dilations,
                         int stride, bool affine, int inputs) {
  const SeparableTiling tiling(
      {multi_depthwise(dtype, shape, kernels, dilations, stride, false, affine, inputs, 1), nullptr,
       nullptr});
  return py::make_tuple(tiling.slices, tiling.padded_channels, tiling.scratch_bytes);
}

// Addresses: x[0..inputs), z[0..branches).
void separable_forward(int dtype, const std::vector<int64_t>& shape,
                       const std::vector<int64_t>& kernels, const std::vector<int64_t>& dilations,
                       int stride, bool relu, bool affine, int inputs,
                       const std::vector<uintptr_t>& addresses, uintptr_t params,
                       uintptr_t pointwise, uintptr_t blocked, uintptr_t partials, uintptr_t mean,
                       uintptr_t var, uintptr_t scratch, int threads) {
  MultiDepthwise op =
      multi_depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs, threads);
  expect_threads(threads);
  expect_count("addresses", addresses.size(), op.inputs + op.branches);
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  py::gil_scoped_release unlocked;
  cpu::kernels().separable_forward({{op, address(pointwise), address(blocked)},
                                    all.data() + inputs,
                                    static_cast<double*>(address(partials)),
                                    static_cast<double*>(address(mean)),
                                    static_cast<double*>(address(var))});
}

// Addresses: x[0..inputs), grad[0..branches), z[0..branches), grad_x[0..inputs).
void separable_backward(int dtype, const std::vector<int64_t>& shape,
                        const std::vector<int64_t>& kernels, const std::vector<int64_t>& dilations,
                        int stride, bool relu, bool affine, int inputs,
                        const std::vector<uintptr_t>& addresses, uintptr_t params,
                        uintptr_t pointwise, uintptr_t blocked, uintptr_t tables,
                        bool need_depthwise, bool need_pointwise, bool need_affine,
                        uintptr_t partials, uintptr_t partials_pointwise, uintptr_t grad_params,
                        uintptr_t grad_pointwise, uintptr_t scratch, int threads) {
  MultiDepthwise op =
      multi_depthwise(dtype, shape, kernels, dilations, stride, relu, affine, inputs, threads);
  expect_threads(threads);
  expect_count("addresses", addresses.size(), 2 * (op.inputs + op.branches));
  const auto all = pointers(addresses);
  op.x = all.data(), op.params = address(params), op.scratch = address(scratch);
  void* const* grad = all.data() + inputs;
  py::gil_scoped_release unlocked;
  cpu::kernels().separable_backward({{op, address(pointwise), address(blocked)},
                                     grad,
                                     grad + op.branches,
                                     address(tables),
                                     grad + 2 * op.branches,
                                     need_depthwise,
                                     need_pointwise,
                                     need_affine,
                                     address(partials),
                                     address(partials_pointwise),
                                     address(grad_params),
                                     address(grad_pointwise)});
}

// `shape` is (N, C, H, W) of x.
PoolPair pool_pair(int dtype, const std::vector<int64_t>& shape, int64_t stride, uintptr_t x,
                   int threads) {
  expect_images(shape);
  expect_between("stride", stride, 1, 2);
  expect_threads(threads);
  return {static_cast<DType>(dtype),
          shape[0],
          shape[1],
          shape[2],
          shape[3],
          stride,
          address(x),
          threads};
}

int64_t pool_pair_scratch(const std::vector<int64_t>& shape, int64_t stride) {
  return pool_pair_scratch_bytes(pool_pair(0, shape, stride, 0, 1));
}

void pool_pair_forward(int dtype, const std::vector<int64_t>& shape, int64_t stride, uintptr_t x,
                       uintptr_t average, uintptr_t max, int threads) {
  const PoolPair op = pool_pair(dtype, shape, stride, x, threads);
  py::gil_scoped_release unlocked;
  cpu::kernels().pool_pair_forward({op, address(average), address(max)});
}

// Addresses: grad of average and of max, their z, terms.
void pool_pair_backward(int dtype, const std::vector<int64_t>& shape, int64_t stride, uintptr_t x,
                        const std::vector<uintptr_t>& addresses, uintptr_t tables,
                        const std::vector<double>& factors, uintptr_t grad_x, uintptr_t scratch,
                        int threads) {
  expect_count("addresses", addresses.size(), 4 + static_cast<int64_t>(factors.size()));
  const PoolPair op = pool_pair(dtype, shape, stride, x, threads);
  const auto all = pointers(addresses);
  py::gil_scoped_release unlocked;
  cpu::kernels().pool_pair_backward({op,
                                     {all[0], all[1]},
                                     {all[2], all[3]},
                                     address(tables),
                                     static_cast<int>(factors.size()),
                                     all.data() + 4,
                                     factors.data(),
                                     address(grad_x),
                                     address(scratch)});
}

LineConv line_conv(int dtype, const std::vector<int64_t>& shape, const std::vector<int64_t>& weight,
                   int64_t stride, bool vertical, bool relu, int threads) {
  expect_images(shape);
  expect_between("images", shape[0], 1, std::numeric_limits<int64_t>::max());
  expect_count("weight_shape", weight.size(), 3);
  for (const int64_t size : weight)
    expect_between("a size of weight", size, 1, std::numeric_limits<int>::max());
  expect_between("a remainder of the kernel by 2", weight[2] % 2, 1, 1);
  expect_between("channels", shape[1], weight[1], weight[1]);
  expect_between("stride", stride, 1, 2);
  expect_threads(threads);
  return {static_cast<DType>(dtype),
          shape[0],
          shape[2],
          shape[3],
          weight[1],
          weight[0],
          weight[2],
          stride,
          vertical,
          relu,
          threads};
}

// Values of packed weights, slices of the partial sums, values of each, bytes of scratch a thread.
py::tuple line_conv_plan(int dtype, const std::vector<int64_t>& shape,
                         const std::vector<int64_t>& weight_shape, int64_t stride, bool vertical,
                         bool relu) {
  const LineTiling tiling(line_conv(dtype, shape, weight_shape, stride, vertical, relu, 1));
  return py::make_tuple(tiling.packed_values, tiling.slices, tiling.partial_values,
                        tiling.scratch_bytes);
}

void line_conv_forward(int dtype, const std::vector<int64_t>& shape,
                       const std::vector<int64_t>& weight_shape, int64_t stride, bool vertical,
                       bool relu, uintptr_t x, uintptr_t weight, uintptr_t packed, uintptr_t y,
                       uintptr_t scratch, int threads) {
  const LineConv op = line_conv(dtype, shape, weight_shape, stride, vertical, relu, threads);
  py::gil_scoped_release unlocked;
  cpu::kernels().line_conv_forward(
      {op, address(x), address(weight), address(packed), address(y), address(scratch)});
}

void line_conv_backward(int dtype, const std::vector<int64_t>& shape,
                        const std::vector<int64_t>& weight_shape, int64_t stride, bool vertical,
                        bool relu, uintptr_t grad, uintptr_t x, uintptr_t weight, uintptr_t packed,
                        uintptr_t grad_x, uintptr_t partials, uintptr_t grad_weight,
                        uintptr_t scratch, int threads) {
  const LineConv op = line_conv(dtype, shape, weight_shape, stride, vertical, relu, threads);
  py::gil_scoped_release unlocked;
  cpu::kernels().line_conv_backward({op, address(grad), address(x), address(weight),
                                     address(packed), address(grad_x), address(partials),
                                     address(grad_weight), address(scratch)});
}

ChannelSpace channel_space(int64_t outer, int64_t channels, int64_t inner) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  expect_between("outer", outer, 0, kMost);
  expect_between("channels", channels, 1, kMost);
  expect_between("inner", inner, 1, kMost);
  return {outer, channels, inner};
}

int64_t lane_groups(int64_t outer, int64_t channels, int64_t inner) {
  return LaneGrid(channel_space(outer, channels, inner), kSumRows).groups();
}

// Tensors: z[0..inputs).
void batch_statistics(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                      const std::vector<uintptr_t>& tensors, uintptr_t partials, uintptr_t mean,
                      uintptr_t var, int threads) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_count("tensors", tensors.size(), inputs);
  expect_threads(threads);
  const auto all = pointers(tensors);
  py::gil_scoped_release unlocked;
  cpu::kernels().batch_statistics({static_cast<DType>(dtype), space, inputs, all.data(),
                                   static_cast<double*>(address(partials)),
                                   static_cast<double*>(address(mean)),
                                   static_cast<double*>(address(var)), threads});
}

FoldedNorms folded_norms(int count, uintptr_t gamma, uintptr_t beta, uintptr_t mean,
                         uintptr_t rstd) {
  const auto table = [](uintptr_t value) { return static_cast<const double*>(address(value)); };
  return {count, table(gamma), table(beta), table(mean), table(rstd)};
}

// Tensors: z[0..inputs), y.
void mixed_norm_sum_forward(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                            const std::vector<uintptr_t>& tensors, uintptr_t weights, int norms,
                            uintptr_t gamma, uintptr_t beta, uintptr_t mean, uintptr_t rstd,
                            uintptr_t tables, int threads) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_between("inputs", inputs, 1, kMaxInputs);
  expect_count("tensors", tensors.size(), inputs + 1);
  expect_between("norms", norms, 0, inputs);
  expect_threads(threads);
  const auto all = pointers(tensors);
  py::gil_scoped_release unlocked;
  cpu::kernels().mixed_norm_sum_forward(
      {static_cast<DType>(dtype), space, inputs, all.data(), address(weights),
       folded_norms(norms, gamma, beta, mean, rstd), address(tables), all[inputs], threads});
}

// Tensors: z[0..inputs), grad, grad_z[0..inputs).
void mixed_norm_sum_backward(int dtype, int inputs, int64_t outer, int64_t channels, int64_t inner,
                             const std::vector<uintptr_t>& tensors, uintptr_t weights,
                             uintptr_t gamma, uintptr_t mean, uintptr_t rstd,
                             const std::vector<int>& of_batch, uintptr_t partials, uintptr_t sums,
                             uintptr_t tables, int threads) {
  const ChannelSpace space = channel_space(outer, channels, inner);
  expect_between("inputs", inputs, 1, kMaxInputs);
  expect_count("tensors", tensors.size(), 2 * inputs + 1);
  expect_between("norms", static_cast<int64_t>(of_batch.size()), 0, inputs);
  expect_threads(threads);
  const auto all = pointers(tensors);
  py::gil_scoped_release unlocked;
  cpu::kernels().mixed_norm_sum_backward(
      {static_cast<DType>(dtype), space, inputs, all.data(), all[inputs], address(weights),
       folded_norms(static_cast<int>(of_batch.size()), gamma, 0, mean, rstd), of_batch.data(),
       static_cast<double*>(address(partials)), static_cast<double*>(address(sums)),
       address(tables), all.data() + inputs + 1, threads});
}

}  // namespace
}  // namespace asose

PYBIND11_MODULE(cpu, module) {
  module.attr("source_digest") = ASOSE_SOURCE_DIGEST;
  module.attr("max_ops") = asose::kMaxOps;
  module.attr("max_inputs") = asose::kMaxInputs;
  module.attr("max_dims") = asose::kMaxDims;
  module.attr("max_branches") = asose::kMaxBranches;
  module.def("isa", [] { return asose::cpu::kernels().isa; });
  module.def("arch_weights_forward", &asose::arch_weights_forward);
  module.def("arch_weights_backward", &asose::arch_weights_backward);
  module.def("mixed_sum_tasks", &asose::mixed_sum_tasks);
  module.def("mixed_sum_forward", &asose::mixed_sum_forward);
  module.def("mixed_sum_backward", &asose::mixed_sum_backward);
  module.def("pool_empty", &asose::pool_empty);
  module.def("pool_release", [] { asose::cpu::MemoryPool::shared().release(); });
  module.def("multi_depthwise_plan", &asose::multi_depthwise_plan);
  module.def("multi_depthwise_forward", &asose::multi_depthwise_forward);
  module.def("multi_depthwise_backward", &asose::multi_depthwise_backward);
  module.def("separable_plan", &asose::separable_plan);
  module.def("separable_forward", &asose::separable_forward);
  module.def("separable_backward", &asose::separable_backward);
  module.def("pool_pair_scratch", &asose::pool_pair_scratch);
  module.def("pool_pair_forward", &asose::pool_pair_forward);
  module.def("pool_pair_backward", &asose::pool_pair_backward);
  module.def("line_conv_plan", &asose::line_conv_plan);
  module.def("line_conv_forward", &asose::line_conv_forward);
  module.def("line_conv_backward", &asose::line_conv_backward);
  module.def("lane_groups", &asose::lane_groups);
  module.def("batch_statistics", &asose::batch_statistics);
  module.def("mixed_norm_sum_forward", &asose::mixed_norm_sum_forward);
  module.def("mixed_norm_sum_backward", &asose::mixed_norm_sum_backward);
}
