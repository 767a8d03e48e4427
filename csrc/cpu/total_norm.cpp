// Squares are summed in double, chunk by chunk, and the chunks in their order.
#include "../total_norm.h"

#include <cmath>
#include <cstdint>

#include "element.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

constexpr int kSums = 32;  // independent ones, so that no addition waits for the one before

template <class T>
double sum_of_squares(const T* x, int64_t count) {
  double sums[kSums] = {};
  const int64_t whole = count - count % kSums;
  for (int64_t i = 0; i < whole; i += kSums) {
#pragma omp simd
    for (int j = 0; j < kSums; ++j) {
      const double value = x[i + j];
      sums[j] += value * value;
    }
  }
  double sum = 0;
  for (int64_t i = whole; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace

void total_norm(const TotalNorm& args, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t k = 0; k < args.chunks; ++k) {
    NormChunk& chunk = args.chunk[k];
    with_wide_element(chunk.dtype, [&](auto zero) {
      chunk.squares =
          sum_of_squares(static_cast<const decltype(zero)*>(chunk.elements), chunk.count);
    });
  }
  double sum = 0;
  for (int64_t k = 0; k < args.chunks; ++k) sum += args.chunk[k].squares;
  with_wide_element(args.dtype, [&](auto zero) {
    *static_cast<decltype(zero)*>(args.norm) = static_cast<decltype(zero)>(std::sqrt(sum));
  });
}

}  // namespace asose::cpu::ASOSE_ISA
