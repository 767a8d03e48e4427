// The transforms of Winograd's minimal filtering, along one axis of a tile: from its inputs, its
// outputs' gradients or the three weights to values at points, the last of which is infinity, and
// back to outputs or the weights' gradients.
#pragma once

#include "../always_inline.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

template <int kOutputs>
struct Filtering;

// F(2, 3), by the points 0, 1 and -1.
template <>
struct Filtering<2> {
  static constexpr int kOutputs = 2, kPoints = 4;

  // Bt d
  struct Inputs {
    template <class V>
    ASOSE_INLINE void operator()(const V* d, V* to) const {
      to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
    }
  };

  // G w
  struct Weights {
    template <class V>
    ASOSE_INLINE void operator()(const V* w, V* to) const {
      const V even = (w[0] + w[2]) * 0.5f, odd = w[1] * 0.5f;
      to[0] = w[0], to[1] = even + odd, to[2] = even - odd, to[3] = w[2];
    }
  };

  // A g
  struct OutputGradients {
    template <class V>
    ASOSE_INLINE void operator()(const V* g, V* to) const {
      to[0] = g[0], to[1] = g[0] + g[1], to[2] = g[0] - g[1], to[3] = -g[1];
    }
  };

  // At m
  struct Outputs {
    template <class V>
    ASOSE_INLINE void operator()(const V* m, V* to) const {
      to[0] = m[0] + m[1] + m[2], to[1] = m[1] - m[2] - m[3];
    }
  };

  // Gt u
  struct WeightGradients {
    template <class V>
    ASOSE_INLINE void operator()(const V* u, V* to) const {
      const V even = (u[1] + u[2]) / 2.0, odd = (u[1] - u[2]) / 2.0;
      to[0] = u[0] + even, to[1] = odd, to[2] = even + u[3];
    }
  };
};

// F(4, 3), by the points 0, +-a and +-b. These give half the error or less of 1 and 2, and all
// coefficients but those of the weights are exact.
template <>
struct Filtering<4> {
  static constexpr int kOutputs = 4, kPoints = 6;
  static constexpr float a = 0.75f, b = 1.5f, aa = a * a, bb = b * b;
  // One over the product of a point's distances from the others.
  static constexpr double at_0 = 1.0 / (aa * bb), at_a = 1 / (2.0 * aa * (aa - bb)),
                          at_b = 1 / (2.0 * bb * (bb - aa));

  // Bt d
  struct Inputs {
    template <class V>
    ASOSE_INLINE void operator()(const V* d, V* to) const {
      to[0] = (d[4] - d[2] * (aa + bb)) + d[0] * (aa * bb);
      with_and_without(d[4] - d[2] * bb, d[3] - d[1] * bb, a, to + 1);
      with_and_without(d[4] - d[2] * aa, d[3] - d[1] * aa, b, to + 3);
      to[5] = (d[5] - d[3] * (aa + bb)) + d[1] * (aa * bb);
    }
  };

  // G w
  struct Weights {
    template <class V>
    ASOSE_INLINE void operator()(const V* w, V* to) const {
      constexpr float n0 = at_0, na = at_a, nb = at_b;
      to[0] = w[0] * n0;
      with_and_without((w[0] + w[2] * aa) * na, w[1] * na, a, to + 1);
      with_and_without((w[0] + w[2] * bb) * nb, w[1] * nb, b, to + 3);
      to[5] = w[2];
    }
  };

  // A g
  struct OutputGradients {
    template <class V>
    ASOSE_INLINE void operator()(const V* g, V* to) const {
      to[0] = g[0];
      with_and_without(g[0] + g[2] * aa, g[1] + g[3] * aa, a, to + 1);
      with_and_without(g[0] + g[2] * bb, g[1] + g[3] * bb, b, to + 3);
      to[5] = g[3];
    }
  };

  // At m
  struct Outputs {
    template <class V>
    ASOSE_INLINE void operator()(const V* m, V* to) const {
      const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
      to[0] = m[0] + even_a + even_b;
      to[1] = odd_a * a + odd_b * b;
      to[2] = even_a * aa + even_b * bb;
      to[3] = m[5] + odd_a * (aa * a) + odd_b * (bb * b);
    }
  };

  // Gt u
  struct WeightGradients {
    template <class V>
    ASOSE_INLINE void operator()(const V* u, V* to) const {
      const V even_a = (u[1] + u[2]) * at_a, odd_a = (u[1] - u[2]) * at_a;
      const V even_b = (u[3] + u[4]) * at_b, odd_b = (u[3] - u[4]) * at_b;
      to[0] = u[0] * at_0 + even_a + even_b;
      to[1] = odd_a * double{a} + odd_b * double{b};
      to[2] = even_a * double{aa} + even_b * double{bb} + u[5];
    }
  };

 private:
  template <class V>
  ASOSE_INLINE static void with_and_without(const V& even, const V& odd, float point, V* to) {
    to[0] = even + odd * point, to[1] = even - odd * point;
  }
};

// A square of kFrom to one of kTo by a transform of one axis, down and then across: `read` gives
// the value of a row and a column, and `write` takes one.
template <int kFrom, int kTo, class V, class Read, class Transform, class Write>
ASOSE_INLINE void down_and_across(const Read& read, const Transform& transform,
                                  const Write& write) {
  V half_way[kTo][kFrom];
#pragma GCC unroll 6
  for (int x = 0; x < kFrom; ++x) {
    V column[kFrom], results[kTo];
#pragma GCC unroll 6
    for (int y = 0; y < kFrom; ++y) column[y] = read(y, x);
    transform(column, results);
#pragma GCC unroll 6
    for (int y = 0; y < kTo; ++y) half_way[y][x] = results[y];
  }
#pragma GCC unroll 6
  for (int y = 0; y < kTo; ++y) {
    V results[kTo];
    transform(half_way[y], results);
#pragma GCC unroll 6
    for (int x = 0; x < kTo; ++x) write(y, x, results[x]);
  }
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
