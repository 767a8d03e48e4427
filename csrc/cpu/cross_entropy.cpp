// One thread: there are a few thousand values.
#include "../cross_entropy.h"

#include <cmath>
#include <cstdint>

#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// As torch.argmax finds it: the first of equals, and a NaN is larger than all others.
template <class T>
int64_t first_largest(const T* x, int64_t count) {
  int64_t found = 0;
  for (int64_t c = 1; c < count && !std::isnan(x[found]); ++c)
    if (!(x[c] <= x[found])) found = c;
  return found;
}

template <class T>
void forward(const CrossEntropyForward& args) {
  const CrossEntropy& op = args.op;
  double total = 0;
  int64_t counted = 0, correct = 0;
  for (int64_t n = 0; n < op.rows; ++n) {
    const T* x = static_cast<const T*>(args.scores) + n * op.classes;
    T* p = static_cast<T*>(args.probabilities) + n * op.classes;
    const int64_t label = op.labels[n], largest = first_largest(x, op.classes);
    double sum = 0, distances = 0;
    for (int64_t c = 0; c < op.classes; ++c) {
      const T distance = x[c] - x[largest];
      p[c] = std::exp(distance);
      sum += p[c];
      distances += distance;
    }
    const T share = static_cast<T>(1 / sum);
    for (int64_t c = 0; c < op.classes; ++c) p[c] *= share;
    if (!op.counts(n)) continue;
    const double log_sum = std::log(sum);
    double loss = log_sum - (x[label] - x[largest]);
    if (op.smoothing != 0) {  // 0 times the loss of a class that cannot be would be NaN
      const double uniform = log_sum - distances / static_cast<double>(op.classes);
      loss = (1 - op.smoothing) * loss + op.smoothing * uniform;
    }
    total += loss;
    ++counted;
    correct += largest == label;
  }
  *static_cast<T*>(args.loss) = static_cast<T>(total / static_cast<double>(counted));
  *args.correct = correct;
}

template <class T>
void backward(const CrossEntropyBackward& args) {
  const CrossEntropy& op = args.op;
  int64_t counted = 0;
  for (int64_t n = 0; n < op.rows; ++n) counted += op.counts(n);
  const T scale = static_cast<T>(*static_cast<const T*>(args.grad) / static_cast<double>(counted));
  const T every = static_cast<T>(op.smoothing / static_cast<double>(op.classes));
  const T own = static_cast<T>(1 - op.smoothing);
  for (int64_t n = 0; n < op.rows; ++n) {
    const T* p = static_cast<const T*>(args.probabilities) + n * op.classes;
    T* grad = static_cast<T*>(args.grad_scores) + n * op.classes;
    if (!op.counts(n)) {
      for (int64_t c = 0; c < op.classes; ++c) grad[c] = 0;
      continue;
    }
    for (int64_t c = 0; c < op.classes; ++c) grad[c] = scale * (p[c] - every);
    grad[op.labels[n]] -= scale * own;
  }
}

}  // namespace

void cross_entropy_forward(const CrossEntropyForward& args, int) {
  with_wide_element(args.op.dtype, [&](auto zero) { forward<decltype(zero)>(args); });
}

void cross_entropy_backward(const CrossEntropyBackward& args, int) {
  with_wide_element(args.op.dtype, [&](auto zero) { backward<decltype(zero)>(args); });
}

}  // namespace asose::cpu::ASOSE_ISA
