// One thread: there are a dozen values.
#include "../term_weights.h"

#include <cstdint>

#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

double read(const void* values, DType dtype, int64_t i) {
  double found = 1;
  if (values)
    with_wide_element(dtype,
                      [&](auto zero) { found = static_cast<const decltype(zero)*>(values)[i]; });
  return found;
}

void write(void* values, DType dtype, int64_t i, double value) {
  with_wide_element(dtype, [&](auto zero) {
    using T = decltype(zero);
    static_cast<T*>(values)[i] = static_cast<T>(value);
  });
}

double weight(const TermWeights& op, int64_t k) { return read(op.weights, op.weights_dtype, k); }

double gain(const TermWeights& op) { return read(op.gain, op.gain_dtype, 0); }

}  // namespace

void term_weights_forward(const TermWeightsForward& args, int) {
  const TermWeights& op = args.op;
  const double g = gain(op);
  for (int64_t t = 0; t < op.terms; ++t) {
    const int64_t k = op.order[t];
    const double share = 1 - g + (op.identity < 0 ? 0 : g * weight(op, op.identity));
    write(args.out, args.dtype, t, k < 0 ? share : g * weight(op, k));
  }
}

void term_weights_backward(const TermWeightsBackward& args, int) {
  const TermWeights& op = args.op;
  double of_gain = 0;
  const double g = gain(op);
  // What candidate k is a term of: its own, and that of the shortcut for the identity.
  for (int64_t k = 0; k < op.candidates; ++k) {
    double of_term = 0;
    for (int64_t t = 0; t < op.terms; ++t)
      if (op.order[t] == k || (op.order[t] < 0 && op.identity == k))
        of_term += read(args.grad, args.dtype, t);
    if (args.grad_weights) write(args.grad_weights, op.weights_dtype, k, g * of_term);
    of_gain += weight(op, k) * of_term;
  }
  for (int64_t t = 0; t < op.terms; ++t)
    if (op.order[t] < 0) of_gain -= read(args.grad, args.dtype, t);
  if (args.grad_gain) write(args.grad_gain, op.gain_dtype, 0, of_gain);
}

}  // namespace asose::cpu::ASOSE_ISA
