// Products of small matrices. Every sum is of one thread, over its terms in their order, so that
// results do not depend on the number of threads.
#include "../linear.h"

#include <algorithm>
#include <cstdint>

#include "element.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

constexpr int kVectors = 2;                              // of columns that are computed together
constexpr int kRows = kVectorBytes == 64 ? 8 : 4;        // likewise, as far as there are registers
constexpr int64_t kProductsOfThread = int64_t{1} << 18;  // fewer are not worth another thread

// to[i][j] = bias[j] + sum over k of left[i][k] right[k][j]
template <class T>
struct Product {
  int64_t rows, terms, columns;
  const T* left;
  int64_t left_row, left_term;  // steps
  const T* right;
  int64_t right_term;
  bool padded;    // whether vectors of the right matrix may be read beyond its columns
  const T* bias;  // null: 0
  T* to;
  int64_t to_row;
};

// Of so many rows and vectors, the last of which has `lanes` columns.
template <class T, int kBlockRows, int kBlockVectors>
void multiply_block(const Product<T>& product, int64_t row, int64_t column, int lanes) {
  Vector<T> sum[kBlockRows][kBlockVectors] = {};
  const T* left = product.left + row * product.left_row;
  const T* right = product.right + column;
  const int read = product.padded ? kLanes<T> : lanes;
  for (int64_t k = 0; k < product.terms; ++k) {
    Vector<T> values[kBlockVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kBlockVectors; ++v)
      values[v] = load(right + v * kLanes<T>, v + 1 < kBlockVectors ? kLanes<T> : read);
#pragma GCC unroll 8
    for (int r = 0; r < kBlockRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kBlockVectors; ++v) sum[r][v] += values[v] * left[r * product.left_row];
    left += product.left_term;
    right += product.right_term;
  }
#pragma GCC unroll 2
  for (int v = 0; v < kBlockVectors; ++v) {
    const int64_t first = column + v * kLanes<T>;
    const int count = v + 1 < kBlockVectors ? kLanes<T> : lanes;
    const Vector<T> bias = product.bias ? load(product.bias + first, count) : Vector<T>{};
#pragma GCC unroll 8
    for (int r = 0; r < kBlockRows; ++r)
      store(product.to + (row + r) * product.to_row + first, sum[r][v] + bias, count);
  }
}

template <class T, int kBlockRows>
void multiply_rows(const Product<T>& product, int64_t row, int64_t column) {
  const int64_t left = product.columns - column;
  if (left > kLanes<T>)
    return multiply_block<T, kBlockRows, kVectors>(
        product, row, column, static_cast<int>(std::min<int64_t>(left - kLanes<T>, kLanes<T>)));
  multiply_block<T, kBlockRows, 1>(product, row, column, static_cast<int>(left));
}

template <class T>
void multiply(const Product<T>& product, int threads) {
  constexpr int64_t kColumns = kVectors * kLanes<T>;
  const int64_t products = product.rows * product.columns * product.terms;
  const int most = static_cast<int>(std::clamp<int64_t>(products / kProductsOfThread, 1, threads));
#pragma omp parallel for collapse(2) schedule(static) num_threads(most)
  for (int64_t column = 0; column < product.columns; column += kColumns)
    for (int64_t first = 0; first < product.rows; first += kRows) {
      const int64_t end = std::min(first + kRows, product.rows);
      if (end - first == kRows) {
        multiply_rows<T, kRows>(product, first, column);
        continue;
      }
      int64_t row = first;
      for (; row + 2 <= end; row += 2) multiply_rows<T, 2>(product, row, column);
      if (row < end) multiply_rows<T, 1>(product, row, column);
    }
}

template <class T>
void forward(const LinearForward& args, int threads) {
  const Linear& op = args.op;
  const T* weight = static_cast<const T*>(args.weight);
  T* turned = static_cast<T*>(args.turned);
  for (int64_t f = 0; f < op.inputs; ++f) {
    T* row = turned + f * op.pitch();
    for (int64_t o = 0; o < op.outputs; ++o) row[o] = weight[o * op.inputs + f];
    std::fill(row + op.outputs, row + op.pitch(), T{0});
  }
  multiply<T>(
      {op.rows, op.inputs, op.outputs, static_cast<const T*>(args.x), op.inputs, 1, turned,
       op.pitch(), true, static_cast<const T*>(args.bias), static_cast<T*>(args.y), op.outputs},
      threads);
}

template <class T>
void sum_rows(const Linear& op, const T* grad, T* to) {
  for (int64_t o = 0; o < op.outputs; o += kLanes<T>) {
    const int lanes = static_cast<int>(std::min<int64_t>(op.outputs - o, kLanes<T>));
    Vector<T> sum = {};
    for (int64_t n = 0; n < op.rows; ++n) sum += load(grad + n * op.outputs + o, lanes);
    store(to + o, sum, lanes);
  }
}

template <class T>
void backward(const LinearBackward& args, int threads) {
  const Linear& op = args.op;
  const T* grad = static_cast<const T*>(args.grad);
  if (args.grad_x)
    multiply<T>(
        {op.rows, op.outputs, op.inputs, grad, op.outputs, 1, static_cast<const T*>(args.weight),
         op.inputs, false, nullptr, static_cast<T*>(args.grad_x), op.inputs},
        threads);
  if (args.grad_weight)
    multiply<T>({op.outputs, op.rows, op.inputs, grad, 1, op.outputs, static_cast<const T*>(args.x),
                 op.inputs, false, nullptr, static_cast<T*>(args.grad_weight), op.inputs},
                threads);
  if (args.grad_bias) sum_rows(op, grad, static_cast<T*>(args.grad_bias));
}

}  // namespace

void linear_forward(const LinearForward& args, int threads) {
  with_wide_element(args.op.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void linear_backward(const LinearBackward& args, int threads) {
  with_wide_element(args.op.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
