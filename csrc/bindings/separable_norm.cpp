#include "../separable_norm.h"

#include <cstdint>
#include <memory>
#include <vector>

#include "depthwise.h"
#include "device.h"
#include "module.h"
#include "one_norm.h"
#include "strided_weights.h"

namespace asose {
namespace {

// One shape of a call, on so many threads: whatever of it need not be looked at again.
class SeparableNormPlan {
 public:
  SeparableNormPlan(int dtype, const Integers& shape, const Integers& kernels,
                    const Integers& dilations, int stride, device::Execution threads)
      : kernels_(kernels), dilations_(dilations), threads_(threads) {
    expect_at_least("threads", threads, 1);
    expect_at_least("images", shape.empty() ? 0 : shape[0], 1);
    depthwise(dtype, shape, kernels_, dilations_, stride, true, false, 1);
    op_ = {static_cast<DType>(dtype),
           shape[0],
           shape[1],
           shape[2],
           shape[3],
           stride,
           static_cast<int>(kernels.size()),
           kernels_.data(),
           dilations_.data()};
  }
  // The operator points to the lists.
  SeparableNormPlan(const SeparableNormPlan&) = delete;
  SeparableNormPlan& operator=(const SeparableNormPlan&) = delete;

  int64_t forward_bytes() const { return SeparableNormForwardRoom(op_, threads_, nullptr).bytes; }
  int64_t backward_bytes() const { return SeparableNormBackwardRoom(op_, threads_, nullptr).bytes; }

  // Of every stage: seven integers of each weight (strided_weights), five tables and three dtypes
  // (GivenNorm). The addresses are those of x, shortcut, gain, the tables of all norms, y, the
  // workspace, and the outputs of the stages.
  void forward(const Integers& depthwise_weights, const Integers& pointwise_weights,
               const Addresses& norm_tables, const Integers& dtypes,
               const std::vector<bool>& of_batch, const std::vector<double>& eps,
               const std::vector<double>& momenta, const Addresses& addresses) const {
    const int stages = op_.stages;
    const auto of_depthwise = weights(depthwise_weights, op_.kernels);
    const auto of_pointwise = weights(pointwise_weights, nullptr);
    expect_count("norm_tables", norm_tables.size(), 5 * stages);
    expect_count("dtypes", dtypes.size(), 3 * stages);
    for (const size_t size : {of_batch.size(), eps.size(), momenta.size()})
      expect_count("of_batch, eps or momenta", size, stages);
    std::vector<GivenNorm> given;
    std::vector<RunningNorm> norms;
    std::vector<const double*> gamma, beta;
    given.reserve(stages);
    for (int s = 0; s < stages; ++s) {
      given.emplace_back(part(norm_tables, s, 5), part(dtypes, s, 3), of_batch[s], eps[s],
                         momenta[s], op_.channels);
      norms.push_back(given[s].running);
      gamma.push_back(given[s].gamma.data()), beta.push_back(given[s].beta.data());
    }
    expect_count("addresses", addresses.size(), 6 + stages);
    const auto to = pointers(addresses);
    device::run_unlocked(
        device::separable_norm_forward,
        {op_, to[0], to[1], to[2], of_depthwise.data(), of_pointwise.data(), norms.data(),
         gamma.data(), beta.data(), to[5], to.data() + 6, static_cast<double*>(to[3]), to[4]},
        threads_);
  }

  // The integers of weights and of their gradients, four tables and two dtypes of every stage
  // (GivenAffine). The addresses are those of grad, x, shortcut, gain, the tables of all norms, the
  // gradients of x, shortcut and gain, the workspace, and the outputs of the stages.
  void backward(const Integers& depthwise_weights, const Integers& pointwise_weights,
                const Integers& grad_depthwise, const Integers& grad_pointwise,
                const Addresses& affine_tables, const Integers& dtypes,
                const std::vector<bool>& of_batch, bool shortcut_is_x,
                const Addresses& addresses) const {
    const int stages = op_.stages;
    const auto of_depthwise = weights(depthwise_weights, op_.kernels);
    const auto of_pointwise = weights(pointwise_weights, nullptr);
    const auto to_depthwise = weights(grad_depthwise, op_.kernels);
    const auto to_pointwise = weights(grad_pointwise, nullptr);
    expect_count("affine_tables", affine_tables.size(), 4 * stages);
    expect_count("dtypes", dtypes.size(), 2 * stages);
    expect_count("of_batch", of_batch.size(), stages);
    std::vector<GivenAffine> affine;
    std::vector<const double*> gamma, beta;
    std::vector<double*> grad_gamma, grad_beta;
    affine.reserve(stages);
    const auto batch = std::make_unique<bool[]>(stages);
    for (int s = 0; s < stages; ++s) {
      GivenAffine& of =
          affine.emplace_back(part(affine_tables, s, 4), part(dtypes, s, 2), op_.channels);
      gamma.push_back(of.gamma.data()), beta.push_back(of.beta.data());
      grad_gamma.push_back(of.grad_gamma.data()), grad_beta.push_back(of.grad_beta.data());
      batch[s] = of_batch[s];
    }
    expect_count("addresses", addresses.size(), 9 + stages);
    const auto to = pointers(addresses);
    device::run_unlocked(device::separable_norm_backward,
                         {op_,
                          to[0],
                          to[1],
                          to[2],
                          to[3],
                          of_depthwise.data(),
                          of_pointwise.data(),
                          gamma.data(),
                          beta.data(),
                          batch.get(),
                          to.data() + 9,
                          static_cast<const double*>(to[4]),
                          to[8],
                          to[5],
                          shortcut_is_x,
                          to_depthwise.data(),
                          to_pointwise.data(),
                          to[6],
                          to[7],
                          grad_gamma.data(),
                          grad_beta.data()},
                         threads_);
    for (const GivenAffine& of : affine) of.grad_gamma.store(), of.grad_beta.store();
  }

 private:
  template <class Values>
  static Values part(const Values& values, int stage, int each) {
    return Values(values.begin() + stage * each, values.begin() + (stage + 1) * each);
  }

  // Those of a side each, or of one column for every channel where there are no sides.
  std::vector<StridedWeight> weights(const Integers& values, const int64_t* kernels) const {
    const auto found = strided_weights(values, op_.stages);
    for (int s = 0; s < op_.stages; ++s) {
      const int64_t side = kernels ? kernels[s] : 1;
      const int64_t columns = kernels ? side * side : op_.channels;
      expect_between("side", found[s].side, side, side);
      expect_between("columns", found[s].columns, columns, columns);
    }
    return found;
  }

  Integers kernels_, dilations_;
  SeparableNorm op_;
  device::Execution threads_;
};

const Binding separable_norm_binding([](py::module_& module) {
  py::class_<SeparableNormPlan, std::shared_ptr<SeparableNormPlan>> plans(module,
                                                                          "SeparableNormPlan");
  plans
      .def(py::init<int, const Integers&, const Integers&, const Integers&, int,
                    device::Execution>())
      .def_property_readonly("forward_bytes", &SeparableNormPlan::forward_bytes)
      .def_property_readonly("backward_bytes", &SeparableNormPlan::backward_bytes);
  define_kernel(plans, "forward", &SeparableNormPlan::forward);
  define_kernel(plans, "backward", &SeparableNormPlan::backward);
});

}  // namespace
}  // namespace asose
