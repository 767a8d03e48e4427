// A batch norm with 2x2 max pooling: every pixel is normalised where it is read, so that nothing of
// its size lies between the two. Without pooling these are the kernels of a sum of one term.
#include "../norm_pool.h"

#include <algorithm>
#include <cstdint>

#include "../mixed_norm_sum.h"
#include "channel_tables.h"
#include "element.h"
#include "measured_norm.h"
#include "norm_gradient.h"
#include "pooled_norm.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

double scale_of(const FoldedNorms& norms, int64_t channel) {
  return norms.rstd[channel] * (norms.gamma ? norms.gamma[channel] : 1);
}

// What the tables of a pooled norm hold, in this order.
template <class Acc>
void norm_rows(const FoldedNorms& norms, int64_t channels, Acc* table) {
  for (int64_t c = 0; c < channels; ++c) {
    const double scale = scale_of(norms, c), beta = norms.beta ? norms.beta[c] : 0;
    const Acc center = static_cast<Acc>(norms.mean[c]);
    table[c] = static_cast<Acc>(scale), table[channels + c] = center;
    table[2 * channels + c] = static_cast<Acc>(beta - scale * (norms.mean[c] - center));
  }
}

template <class T, class A = typename Element<T>::Acc>
void pool(const NormPoolForward& args, const FoldedNorms& norms, int threads) {
  const WindowGrid grid(args.space, args.pooling);
  const int64_t blocks = grid.blocks(), channels = args.space.channels;
  const Offsets pixel(channels, args.pooling.width);
  A* table = static_cast<A*>(args.tables);
  norm_rows(norms, channels, table);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t index = 0; index < blocks; ++index) {
    const WindowBlock block = grid.block(index);
    for (int64_t y = block.top; y < block.bottom; ++y) {
      const WindowRow row(block, y, channels, args.pooling);
      for_vectors<A>(channels, [&](int64_t first, auto lanes) {
        const auto norm = Norm<T>::from(table, channels, first, lanes);
        const T* z = static_cast<const T*>(args.z) + first;
        T* to = static_cast<T*>(args.y) + first;
        row.each([&](const PoolWindow& window, auto inside) {
          const T* from = z + window.from;
          Vector<A> most = norm(load(from, lanes));
#pragma GCC unroll 3
          for (int i = 1; i < 4; ++i) {
            if (!inside(i)) continue;
            const Vector<A> value = norm(load(from + pixel[i], lanes));
            most = beats<A>(value, most) ? value : most;
          }
          store(to + window.to, most, lanes);
        });
      });
    }
  }
}

// sums[0] = sum g, sums[1] = sum g (z - center)
template <class T, class A = typename Element<T>::Acc>
void pooled_sums(const NormPoolBackward& args, const A* norms, int threads) {
  const WindowGrid grid(args.space, args.pooling);
  const int64_t blocks = grid.blocks(), channels = args.space.channels;
  const Offsets pixel(channels, args.pooling.width);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t index = 0; index < blocks; ++index) {
      const WindowBlock block = grid.block(index);
      double* partial = args.partials + index * 2 * channels;
      std::fill_n(partial, 2 * channels, 0.0);
      for (int64_t y = block.top; y < block.bottom; ++y) {
        const WindowRow row(block, y, channels, args.pooling);
        for_vectors<A>(channels, [&](int64_t first, auto lanes) {
          const auto norm = Norm<T>::from(norms, channels, first, lanes);
          const T* z = static_cast<const T*>(args.z) + first;
          const T* grad = static_cast<const T*>(args.grad) + first;
          Vector<A> sums[2] = {};
          row.each([&](const PoolWindow& window, auto inside) {
            const Chosen<T> chosen(z + window.from, pixel, lanes, norm, inside);
            const Vector<A> g = load(grad + window.to, lanes);
            sums[0] += g;
            sums[1] += g * (chosen.z - norm.center);
          });
          for (int k = 0; k < 2; ++k)
            for (int i = 0; i < lanes; ++i) partial[k * channels + first + i] += sums[k][i];
        });
      }
    }
#pragma omp for schedule(static)
    for (int row = 0; row < 2; ++row)
      add_up(args.sums + row * channels, args.partials + row * channels, blocks, 2 * channels,
             channels);
  }
}

template <class T, bool kOfBatch, class A = typename Element<T>::Acc>
void unpool_all(const NormPoolBackward& args, const A* tables, int threads) {
  const WindowGrid grid(args.space, args.pooling);
  const int64_t blocks = grid.blocks(), channels = args.space.channels;
  const Offsets pixel(channels, args.pooling.width);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t index = 0; index < blocks; ++index) {
    const WindowBlock block = grid.block(index);
    for (int64_t y = block.top; y < block.bottom; ++y)
      unpool<T, kOfBatch>(
          WindowRow(block, y, channels, args.pooling), args.pooling.width,
          static_cast<const T*>(args.z), static_cast<const T*>(args.grad), tables,
          [&](const PoolWindow& window, int i, int64_t first, auto lanes, Vector<A> value) {
            T* to = static_cast<T*>(args.grad_z) + window.from + pixel[i] + first;
            __builtin_prefetch(to + pixel.ahead(), 1);
            store(to, value, lanes);
          });
  }
}

template <class T, class A = typename Element<T>::Acc>
void pool_backward(const NormPoolBackward& args, const FoldedNorms& norms, int threads) {
  const int64_t channels = args.space.channels;
  const double count = static_cast<double>(args.space.outer);
  A *table = static_cast<A*>(args.tables), *gradients = table + 3 * channels;
  norm_rows(norms, channels, table);
  std::copy_n(table, 2 * channels, gradients);
  std::fill_n(gradients + 2 * channels, 2 * channels, A{0});
  if (args.sums) {
    pooled_sums<T>(args, table, threads);
    for (int64_t c = 0; c < channels; ++c) {
      double &s0 = args.sums[c], &s1 = args.sums[channels + c];
      const double rest = norms.mean[c] - table[channels + c], rstd = norms.rstd[c];
      s1 = (s1 - rest * s0) * rstd;
      if (!args.of_batch) continue;
      const auto [slope, shift] = ThroughBatch::of(scale_of(norms, c), rstd, rest, s0, s1, count);
      gradients[2 * channels + c] = static_cast<A>(slope);
      gradients[3 * channels + c] = static_cast<A>(shift);
    }
  }
  if (!args.grad_z) return;
  args.of_batch ? unpool_all<T, true>(args, table, threads)
                : unpool_all<T, false>(args, table, threads);
}

template <class T>
void forward(const NormPoolForward& args, int threads) {
  measure<T>(args.dtype, args.space, args.z, args.norm, args.partials, args.statistics, args.mean,
             args.rstd, threads);
  const FoldedNorms norms{1, args.gamma, args.beta, args.mean, args.rstd};
  if (args.pooling.wanted()) return pool<T>(args, norms, threads);
  const typename Element<T>::Acc weight = 1;
  mixed_norm_sum_forward({args.dtype, args.space, 1, &args.z, &weight, norms, args.tables, args.y},
                         threads);
}

template <class T>
void backward(const NormPoolBackward& args, int threads) {
  const FoldedNorms norms{1, args.gamma, args.beta, args.mean, args.rstd};
  if (args.pooling.wanted()) return pool_backward<T>(args, norms, threads);
  const typename Element<T>::Acc weight = 1;
  const int of_batch = args.of_batch;
  mixed_norm_sum_backward({args.dtype, args.space, 1, &args.z, args.grad, &weight, norms, &of_batch,
                           args.partials, args.sums, args.tables, &args.grad_z},
                          threads);
}

}  // namespace

void norm_pool_forward(const NormPoolForward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void norm_pool_backward(const NormPoolBackward& args, int threads) {
  with_element(args.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
