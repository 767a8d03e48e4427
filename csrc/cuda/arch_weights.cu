// Architecture weights on CUDA: one warp per layer, each lane holding a few operations. Arithmetic
// is float64, as on the CPU, so that the discrete choices agree.
#include <cmath>
#include <cstdint>

#include "../arch_weights.h"
#include "../philox.h"
#include "element.cuh"
#include "kernel_launch.cuh"
#include "warp.cuh"

namespace asose::cuda {
namespace {

constexpr int kSlots = kMaxOps / kWarp;

// Operation of a lane's slot.
__device__ int64_t operation(int slot) { return threadIdx.x + slot * kWarp; }

struct Leader {
  double value;
  int op;
};

// The first of the largest values among the slots whose bit is set. NaN never leads.
__device__ Leader find_leader(const double (&values)[kSlots], unsigned slots) {
  Leader best = {-INFINITY, kMaxOps};
  const auto consider = [&](double value, int op) {
    if (value > best.value || (value == best.value && op < best.op)) best = {value, op};
  };
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot)
    if (slots >> slot & 1) consider(values[slot], static_cast<int>(operation(slot)));
  for (int lanes = kWarp / 2; lanes; lanes /= 2) {
    const double value = __shfl_xor_sync(kAllLanes, best.value, lanes);
    consider(value, __shfl_xor_sync(kAllLanes, best.op, lanes));
  }
  return best;
}

struct Softmax {
  Leader max;
  double sum;  // of exp(value - max); NaN where any value is
};

// Replaces values by exp(value - max).
__device__ Softmax exponentiate(double (&values)[kSlots], unsigned present) {
  const Leader max = find_leader(values, present);
  double sum = 0;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot)
    if (present >> slot & 1) sum += values[slot] = exp(values[slot] - max.value);
  return {max, warp_sum(sum)};
}

__device__ void add_boost(double (&logits)[kSlots], unsigned present, const BoostRule& boost) {
  unsigned left = present;
  for (int rank = 0; rank < boost.top_k; ++rank) {
    const int best = find_leader(logits, left).op;
    if (best % kWarp == threadIdx.x) left &= ~(1u << best / kWarp);
  }
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot)
    if ((present & ~left) >> slot & 1 && operation(slot) != boost.none)
      logits[slot] += boost.amount;
}

template <class T>
__global__ void arch_weights_fwd_kernel(const ArchWeightsForward args) {
  const int64_t layer = blockIdx.x;
  const int64_t row = layer * args.ops;
  unsigned present = 0;
  double boosted[kSlots], values[kSlots];
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    if (operation(slot) >= args.ops) continue;
    present |= 1u << slot;
    boosted[slot] = values[slot] = static_cast<const T*>(args.logits)[row + operation(slot)];
  }

  const Softmax plain = exponentiate(values, present);
  double moment = 0;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot)
    if (present >> slot & 1 && values[slot] > 0)
      moment += values[slot] * (boosted[slot] - plain.max.value);
  moment = warp_sum(moment);
  const double max_prob = 1 / plain.sum;
  if (args.boost.top_k > 0 && plain.max.op != args.boost.skip && max_prob < args.boost.below)
    add_boost(boosted, present, args.boost);

#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    if (!(present >> slot & 1)) continue;
    const double noise = args.noise ? args.noise[row + operation(slot)]
                                    : gumbel(args.rng[0], args.rng[1], layer, operation(slot));
    values[slot] = (boosted[slot] + noise) / args.temperature;
  }
  const Softmax sampled = exponentiate(values, present);
  const bool valid = !isnan(sampled.sum);
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    if (!(present >> slot & 1)) continue;
    const int64_t op = operation(slot);
    const T soft = static_cast<T>(valid ? values[slot] / sampled.sum : NAN);
    static_cast<T*>(args.soft)[row + op] = soft;
    static_cast<T*>(args.weights)[row + op] =
        args.hard && valid ? static_cast<T>(op == sampled.max.op) : soft;
  }
  if (threadIdx.x == 0) {
    args.index[layer] = valid ? sampled.max.op : 0;
    static_cast<T*>(args.entropy)[layer] = static_cast<T>(log(plain.sum) - moment / plain.sum);
    static_cast<T*>(args.max_prob)[layer] = static_cast<T>(max_prob);
  }
}

template <class T>
__global__ void arch_weights_bwd_kernel(const ArchWeightsBackward args) {
  const int64_t row = int64_t{blockIdx.x} * args.ops;
  double mean = 0;
  for (int64_t op = threadIdx.x; op < args.ops; op += kWarp)
    mean += static_cast<double>(static_cast<const T*>(args.grad)[row + op]) *
            static_cast<const T*>(args.soft)[row + op];
  mean = warp_sum(mean);
  for (int64_t op = threadIdx.x; op < args.ops; op += kWarp) {
    const double grad = static_cast<const T*>(args.grad)[row + op];
    const double soft = static_cast<const T*>(args.soft)[row + op];
    static_cast<T*>(args.grad_logits)[row + op] =
        static_cast<T>(soft * (grad - mean) / args.temperature);
  }
}

}  // namespace

void arch_weights_forward(const ArchWeightsForward& args, Stream stream) {
  if (!args.layers) return;
  with_wide_element(args.dtype, [&](auto zero) {
    launch_kernel("arch_weights_fwd_kernel", arch_weights_fwd_kernel<decltype(zero)>, args.layers,
                  kWarp, 0, stream, args);
  });
}

void arch_weights_backward(const ArchWeightsBackward& args, Stream stream) {
  if (!args.layers) return;
  with_wide_element(args.dtype, [&](auto zero) {
    launch_kernel("arch_weights_bwd_kernel", arch_weights_bwd_kernel<decltype(zero)>, args.layers,
                  kWarp, 0, stream, args);
  });
}

}  // namespace asose::cuda
