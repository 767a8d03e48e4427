// Architecture weights on the CPU. Arithmetic is float64 whatever the dtype: L x K is tiny, and the
// discrete choices (boost, sample) then agree with every other backend.
#include "../arch_weights.h"

#include <cmath>
#include <cstdint>

#include "../philox.h"
#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

struct Softmax {
  int64_t argmax;
  double max;
  double sum;  // of exp(value - max)
};

// Replaces values by exp(value - max). The first of equal values leads.
Softmax exponentiate(double* values, int64_t count) {
  int64_t argmax = 0;
  for (int64_t k = 1; k < count; ++k)
    if (values[k] > values[argmax]) argmax = k;
  const double max = values[argmax];
  double sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += values[k] = std::exp(values[k] - max);
  return {argmax, max, sum};
}

void add_boost(double* logits, int64_t ops, const BoostRule& boost) {
  bool taken[kMaxOps] = {};
  for (int rank = 0; rank < boost.top_k && rank < ops; ++rank) {
    int64_t best = -1;
    for (int64_t k = 0; k < ops; ++k)
      if (!taken[k] && (best < 0 || logits[k] > logits[best])) best = k;
    taken[best] = true;
  }
  for (int64_t k = 0; k < ops; ++k)
    if (taken[k] && k != boost.none) logits[k] += boost.amount;
}

template <class T>
void forward_layer(const ArchWeightsForward& args, int64_t layer) {
  const int64_t ops = args.ops;
  const T* logits = static_cast<const T*>(args.logits) + layer * ops;
  T* weights = static_cast<T*>(args.weights) + layer * ops;
  T* soft = static_cast<T*>(args.soft) + layer * ops;
  double boosted[kMaxOps], values[kMaxOps];
  for (int64_t k = 0; k < ops; ++k) boosted[k] = values[k] = logits[k];

  const Softmax plain = exponentiate(values, ops);
  double moment = 0;
  for (int64_t k = 0; k < ops; ++k)
    if (values[k] > 0) moment += values[k] * (boosted[k] - plain.max);
  const double max_prob = 1 / plain.sum;
  static_cast<T*>(args.entropy)[layer] = static_cast<T>(std::log(plain.sum) - moment / plain.sum);
  static_cast<T*>(args.max_prob)[layer] = static_cast<T>(max_prob);
  if (args.boost.top_k > 0 && plain.argmax != args.boost.skip && max_prob < args.boost.below)
    add_boost(boosted, ops, args.boost);

  for (int64_t k = 0; k < ops; ++k) {
    const double noise =
        args.noise ? args.noise[layer * ops + k] : gumbel(args.rng[0], args.rng[1], layer, k);
    values[k] = (boosted[k] + noise) / args.temperature;
  }
  const Softmax sampled = exponentiate(values, ops);
  const bool valid = !std::isnan(sampled.sum);
  for (int64_t k = 0; k < ops; ++k) {
    soft[k] = static_cast<T>(valid ? values[k] / sampled.sum : NAN);
    weights[k] = args.hard && valid ? static_cast<T>(k == sampled.argmax) : soft[k];
  }
  args.index[layer] = valid ? sampled.argmax : 0;
}

template <class T>
void forward(const ArchWeightsForward& args) {
  for (int64_t layer = 0; layer < args.layers; ++layer) forward_layer<T>(args, layer);
}

template <class T>
void backward(const ArchWeightsBackward& args) {
  for (int64_t layer = 0; layer < args.layers; ++layer) {
    const T* grad = static_cast<const T*>(args.grad) + layer * args.ops;
    const T* soft = static_cast<const T*>(args.soft) + layer * args.ops;
    T* grad_logits = static_cast<T*>(args.grad_logits) + layer * args.ops;
    double mean = 0;
    for (int64_t k = 0; k < args.ops; ++k) mean += static_cast<double>(grad[k]) * soft[k];
    for (int64_t k = 0; k < args.ops; ++k)
      grad_logits[k] = static_cast<T>(soft[k] * (grad[k] - mean) / args.temperature);
  }
}

}  // namespace

void arch_weights_forward(const ArchWeightsForward& args, int /*threads*/) {
  with_wide_element(args.dtype, [&](auto zero) { forward<decltype(zero)>(args); });
}

void arch_weights_backward(const ArchWeightsBackward& args, int /*threads*/) {
  with_wide_element(args.dtype, [&](auto zero) { backward<decltype(zero)>(args); });
}

}  // namespace asose::cpu::ASOSE_ISA
