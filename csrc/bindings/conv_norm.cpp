#include "../conv_norm.h"

#include <cstdint>
#include <memory>
#include <stdexcept>

#include "dense_conv.h"
#include "device.h"
#include "module.h"
#include "one_norm.h"

namespace asose {
namespace {

// One shape of a call, on so many threads: whatever of it need not be looked at again.
class ConvNormPlan {
 public:
  ConvNormPlan(int dtype, const Integers& shape, const Integers& weights, int64_t stride_down,
               int64_t stride_across, bool relu, bool pool, bool blend, device::Execution threads)
      : op_{dense_conv(dtype, shape, weights, stride_down, stride_across, relu), pool, blend},
        threads_(threads) {
    if (pool && blend) throw std::invalid_argument("pool or blend must be false");
    expect_at_least("threads", threads, 1);
  }

  int64_t forward_bytes() const { return ConvNormForwardRoom(op_, threads_, nullptr).bytes; }
  int64_t backward_bytes() const { return ConvNormBackwardRoom(op_, threads_, nullptr).bytes; }

  // The addresses are those of x, weights, shortcut, gain, z, mean and rstd, y, and the workspace.
  void forward(const Integers& strides, const Addresses& norm_tables, const Integers& dtypes,
               bool of_batch, double eps, double momentum, const Addresses& addresses) const {
    const int64_t channels = op_.conv.out_channels;
    const GivenNorm norm(norm_tables, dtypes, of_batch, eps, momentum, channels);
    expect_count("addresses", addresses.size(), 8);
    const auto to = pointers(addresses);
    double* const mean = static_cast<double*>(to[5]);
    device::run_unlocked(
        device::conv_norm_forward,
        {op_, to[0], dense_weights(addresses[1], strides), to[2], to[3], norm.running,
         norm.gamma.data(), norm.beta.data(), to[7], to[4], mean, mean + channels, to[6]},
        threads_);
  }

  // The addresses are those of grad, x, weights, z, shortcut, gain, mean and rstd, of the gradients
  // of x, weights, shortcut and gain, and of the workspace.
  void backward(const Integers& strides, const Integers& grad_strides,
                const Addresses& affine_tables, const Integers& dtypes, bool of_batch,
                const Addresses& addresses) const {
    const int64_t channels = op_.conv.out_channels;
    GivenAffine affine(affine_tables, dtypes, channels);
    expect_count("addresses", addresses.size(), 12);
    const auto to = pointers(addresses);
    const double* const mean = static_cast<const double*>(to[6]);
    device::run_unlocked(device::conv_norm_backward,
                         {op_, to[0], to[1], dense_weights(addresses[2], strides), to[3], to[4],
                          to[5], affine.gamma.data(), affine.beta.data(), mean, mean + channels,
                          of_batch, to[11], to[7], dense_weights(addresses[8], grad_strides), to[9],
                          to[10], affine.grad_gamma.data(), affine.grad_beta.data()},
                         threads_);
    affine.grad_gamma.store(), affine.grad_beta.store();
  }

 private:
  ConvNorm op_;
  device::Execution threads_;
};

const Binding conv_norm_binding([](py::module_& module) {
  py::class_<ConvNormPlan, std::shared_ptr<ConvNormPlan>> plans(module, "ConvNormPlan");
  plans
      .def(py::init<int, const Integers&, const Integers&, int64_t, int64_t, bool, bool, bool,
                    device::Execution>())
      .def_property_readonly("forward_bytes", &ConvNormPlan::forward_bytes)
      .def_property_readonly("backward_bytes", &ConvNormPlan::backward_bytes);
  define_kernel(plans, "forward", &ConvNormPlan::forward);
  define_kernel(plans, "backward", &ConvNormPlan::backward);
});

}  // namespace
}  // namespace asose
