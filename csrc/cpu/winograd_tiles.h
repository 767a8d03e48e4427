// The transforms of Winograd's minimal filtering, along one axis of a tile: from its inputs, its
// outputs' gradients or the weights of its taps to values at points, the last of which is infinity,
// and back to outputs or the weights' gradients.
#pragma once

#include <array>

#include "../always_inline.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// A transform of so many values to so many.
template <int kTaken, int kGiven>
struct Transform {
  static constexpr int kFrom = kTaken, kTo = kGiven;
};

// F(outputs, taps)
template <int kOutputs, int kTaps>
struct Filtering;

// At the points `point` and -`point`, of what even and odd powers of it give.
template <class V>
ASOSE_INLINE void with_and_without(const V& even, const V& odd, float point, V* to) {
  to[0] = even + odd * point, to[1] = even - odd * point;
}

// F(1, 1): nothing is to be done along this axis.
template <>
struct Filtering<1, 1> {
  static constexpr int kOutputs = 1, kTaps = 1, kPoints = 1;

  struct Same : Transform<1, 1> {
    template <class V>
    ASOSE_INLINE void operator()(const V* from, V* to) const {
      to[0] = from[0];
    }
  };
  using Inputs = Same;
  using Weights = Same;
  using OutputGradients = Same;
  using Outputs = Same;
  using WeightGradients = Same;
};

// F(2, 3), by the points 0, 1 and -1.
template <>
struct Filtering<2, 3> {
  static constexpr int kOutputs = 2, kTaps = 3, kPoints = 4;

  // Bt d
  struct Inputs : Transform<4, 4> {
    template <class V>
    ASOSE_INLINE void operator()(const V* d, V* to) const {
      to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
    }
  };

  // G w
  struct Weights : Transform<3, 4> {
    template <class V>
    ASOSE_INLINE void operator()(const V* w, V* to) const {
      const V even = (w[0] + w[2]) * 0.5f, odd = w[1] * 0.5f;
      to[0] = w[0], to[1] = even + odd, to[2] = even - odd, to[3] = w[2];
    }
  };

  // A g
  struct OutputGradients : Transform<2, 4> {
    template <class V>
    ASOSE_INLINE void operator()(const V* g, V* to) const {
      to[0] = g[0], to[1] = g[0] + g[1], to[2] = g[0] - g[1], to[3] = -g[1];
    }
  };

  // At m
  struct Outputs : Transform<4, 2> {
    template <class V>
    ASOSE_INLINE void operator()(const V* m, V* to) const {
      to[0] = m[0] + m[1] + m[2], to[1] = m[1] - m[2] - m[3];
    }
  };

  // Gt u
  struct WeightGradients : Transform<4, 3> {
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
struct Filtering<4, 3> {
  static constexpr int kOutputs = 4, kTaps = 3, kPoints = 6;
  static constexpr float a = 0.75f, b = 1.5f, aa = a * a, bb = b * b;
  // One over the product of a point's distances from the others.
  static constexpr double at_0 = 1.0 / (aa * bb), at_a = 1 / (2.0 * aa * (aa - bb)),
                          at_b = 1 / (2.0 * bb * (bb - aa));

  // Bt d
  struct Inputs : Transform<6, 6> {
    template <class V>
    ASOSE_INLINE void operator()(const V* d, V* to) const {
      to[0] = (d[4] - d[2] * (aa + bb)) + d[0] * (aa * bb);
      with_and_without(d[4] - d[2] * bb, d[3] - d[1] * bb, a, to + 1);
      with_and_without(d[4] - d[2] * aa, d[3] - d[1] * aa, b, to + 3);
      to[5] = (d[5] - d[3] * (aa + bb)) + d[1] * (aa * bb);
    }
  };

  // G w
  struct Weights : Transform<3, 6> {
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
  struct OutputGradients : Transform<4, 6> {
    template <class V>
    ASOSE_INLINE void operator()(const V* g, V* to) const {
      to[0] = g[0];
      with_and_without(g[0] + g[2] * aa, g[1] + g[3] * aa, a, to + 1);
      with_and_without(g[0] + g[2] * bb, g[1] + g[3] * bb, b, to + 3);
      to[5] = g[3];
    }
  };

  // At m
  struct Outputs : Transform<6, 4> {
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
  struct WeightGradients : Transform<6, 3> {
    template <class V>
    ASOSE_INLINE void operator()(const V* u, V* to) const {
      const V even_a = (u[1] + u[2]) * at_a, odd_a = (u[1] - u[2]) * at_a;
      const V even_b = (u[3] + u[4]) * at_b, odd_b = (u[3] - u[4]) * at_b;
      to[0] = u[0] * at_0 + even_a + even_b;
      to[1] = odd_a * double{a} + odd_b * double{b};
      to[2] = even_a * double{aa} + even_b * double{bb} + u[5];
    }
  };
};

// The points +-p beside +-q, +-r, +-s and 0.
struct Pair {
  float point, square;
  float one, two, three;  // sums of products of so many of the squares of q, r and s
  double scale;           // one over the product of a point's distances from the others

  constexpr Pair(float p, float q, float r, float s)
      : point(p),
        square(p * p),
        one(q * q + r * r + s * s),
        two(q * q * (r * r) + q * q * (s * s) + r * r * (s * s)),
        three(q * q * (r * r) * (s * s)),
        scale(1 / (2.0 * square * (square - q * q) * (square - r * r) * (square - s * s))) {}
};

// F(4, 7), by the points 0 and four pairs, which give three fifths of the error of 1/2, 1, 3/2
// and 2. All coefficients but those of the weights are exact.
template <>
struct Filtering<4, 7> {
  static constexpr int kOutputs = 4, kTaps = 7, kPoints = 10;
  static constexpr float a = 0.375f, b = 0.875f, c = 1.25f, d = 2.25f;
  static constexpr std::array<Pair, 4> kPairs{
      {{a, b, c, d}, {b, a, c, d}, {c, a, b, d}, {d, a, b, c}}};
  // The same of all squares.
  static constexpr float kSquare = kPairs[0].square, kOne = kSquare + kPairs[0].one,
                         kTwo = kSquare * kPairs[0].one + kPairs[0].two,
                         kThree = kSquare * kPairs[0].two + kPairs[0].three,
                         kFour = kSquare * kPairs[0].three;

  // Bt d
  struct Inputs : Transform<10, 10> {
    template <class V>
    ASOSE_INLINE void operator()(const V* d, V* to) const {
      const auto all = [](const V* d) {
        return d[8] - d[6] * kOne + d[4] * kTwo - d[2] * kThree + d[0] * kFour;
      };
      to[0] = all(d);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Pair& pair = kPairs[i];
        const auto others = [&](const V* d) {
          return d[6] - d[4] * pair.one + d[2] * pair.two - d[0] * pair.three;
        };
        with_and_without(others(d + 2), others(d + 1), pair.point, to + 1 + 2 * i);
      }
      to[9] = all(d + 1);
    }
  };

  // G w
  struct Weights : Transform<7, 10> {
    template <class V>
    ASOSE_INLINE void operator()(const V* w, V* to) const {
      to[0] = w[0] * static_cast<float>(1.0 / kFour);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Pair& pair = kPairs[i];
        const float scale = static_cast<float>(pair.scale);
        const V even = ((w[6] * pair.square + w[4]) * pair.square + w[2]) * pair.square + w[0];
        const V odd = (w[5] * pair.square + w[3]) * pair.square + w[1];
        with_and_without(even * scale, odd * scale, pair.point, to + 1 + 2 * i);
      }
      to[9] = w[6];
    }
  };

  // A g
  struct OutputGradients : Transform<4, 10> {
    template <class V>
    ASOSE_INLINE void operator()(const V* g, V* to) const {
      to[0] = g[0];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Pair& pair = kPairs[i];
        with_and_without(g[0] + g[2] * pair.square, g[1] + g[3] * pair.square, pair.point,
                         to + 1 + 2 * i);
      }
      to[9] = g[3];
    }
  };

  // At m
  struct Outputs : Transform<10, 4> {
    template <class V>
    ASOSE_INLINE void operator()(const V* m, V* to) const {
      to[0] = m[0], to[1] = V{}, to[2] = V{}, to[3] = m[9];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Pair& pair = kPairs[i];
        const V even = m[1 + 2 * i] + m[2 + 2 * i], odd = m[1 + 2 * i] - m[2 + 2 * i];
        to[0] += even, to[1] += odd * pair.point, to[2] += even * pair.square;
        to[3] += odd * (pair.point * pair.square);
      }
    }
  };

  // Gt u
  struct WeightGradients : Transform<10, 7> {
    template <class V>
    ASOSE_INLINE void operator()(const V* u, V* to) const {
      for (int k = 1; k < 6; ++k) to[k] = V{};
      to[0] = u[0] / double{kFour}, to[6] = u[9];
      for (int i = 0; i < 4; ++i) {
        const Pair& pair = kPairs[i];
        V even = (u[1 + 2 * i] + u[2 + 2 * i]) * pair.scale;
        V odd = (u[1 + 2 * i] - u[2 + 2 * i]) * (pair.scale * pair.point);
        for (int k = 0; k < 6; k += 2) {
          to[k] += even, to[k + 1] += odd;
          even *= double{pair.square}, odd *= double{pair.square};
        }
        to[6] += even;
      }
    }
  };
};

// A tile of outputs by the filterings of its two axes.
template <class DownFiltering, class AcrossFiltering>
struct Tile {
  using Down = DownFiltering;
  using Across = AcrossFiltering;
  static constexpr int kPoints = Down::kPoints * Across::kPoints;
  static constexpr int kTaps = Down::kTaps * Across::kTaps;
};

// Values of a tile to others by a transform of each axis, down and then across: `read` gives the
// value of a row and a column, and `write` takes one.
template <class V, class Down, class Across, class Read, class Write>
ASOSE_INLINE void down_and_across(const Down& down, const Across& across, const Read& read,
                                  const Write& write) {
  V half_way[Down::kTo][Across::kFrom];
#pragma GCC unroll 10
  for (int x = 0; x < Across::kFrom; ++x) {
    V column[Down::kFrom], results[Down::kTo];
#pragma GCC unroll 10
    for (int y = 0; y < Down::kFrom; ++y) column[y] = read(y, x);
    down(column, results);
#pragma GCC unroll 10
    for (int y = 0; y < Down::kTo; ++y) half_way[y][x] = results[y];
  }
#pragma GCC unroll 10
  for (int y = 0; y < Down::kTo; ++y) {
    V results[Across::kTo];
    across(half_way[y], results);
#pragma GCC unroll 10
    for (int x = 0; x < Across::kTo; ++x) write(y, x, results[x]);
  }
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
