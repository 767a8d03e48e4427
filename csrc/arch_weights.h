// Architecture weights of all layers: boost, Gumbel-softmax, straight-through sample, entropy and
// largest probability.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"

namespace asose {

constexpr int kMaxOps = 128;

// Adds `amount` to the top_k largest logits of a layer, except `none`, unless `skip` leads or the
// largest probability has reached `below`. top_k = 0 switches it off; an index of -1 names no
// operation.
struct BoostRule {
  int top_k;
  double amount;
  double below;
  int skip;
  int none;
};

struct ArchWeightsForward {
  DType dtype;          // f32 or f64, of every floating tensor here but the noise
  int64_t layers, ops;  // all tensors are contiguous: (layers, ops) or (layers)
  const void* logits;
  const double* noise;  // (layers, ops), or null to draw it from rng
  const int64_t* rng;   // {seed, offset}; null with noise
  double temperature;
  bool hard;
  BoostRule boost;
  void* weights;   // (layers, ops): one-hot where hard, else soft
  void* soft;      // (layers, ops)
  int64_t* index;  // (layers)
  void* entropy;   // (layers)
  void* max_prob;  // (layers)
};

struct ArchWeightsBackward {
  DType dtype;
  int64_t layers, ops;
  const void* grad;  // (layers, ops), of weights
  const void* soft;
  double temperature;
  void* grad_logits;
};

ASOSE_KERNEL(arch_weights_forward, ArchWeightsForward);
ASOSE_KERNEL(arch_weights_backward, ArchWeightsBackward);

}  // namespace asose
