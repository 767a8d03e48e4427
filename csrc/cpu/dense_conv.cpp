// Dense convolutions on the CPU: registers hold sums of some pixels and some planes of output
// channels while taps and input channels go by. In channels_last memory the taps of a row and
// their channels lie in one run, so that both are one loop.
#include "../dense_conv.h"

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "element.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// Sums of so many vectors of channels of as many pixels are kept at once, as there are registers.
constexpr bool kManyRegisters = kVectorBytes == 64;
constexpr int kMostSums = kManyRegisters ? 24 : 12;
constexpr int kMostPixels = 8, kMostTaps = 16;

// A last vector that is half empty holds the sums of odd taps in its other half, in turn with those
// of the even ones. All runs of taps are even then.
template <class A>
constexpr bool kHalves = kManyRegisters && std::is_same_v<A, float>;

// Vectors of the channels of a tensor: whole ones, and one that may be half empty.
struct Width {
  int vectors;
  bool half;

  template <class A>
  static Width of(int64_t channels, int64_t run) {
    const int64_t rest = channels % kLanes<A>;
    const bool half = kHalves<A> && rest && rest <= kLanes<A> / 2 && run % 2 == 0;
    return {static_cast<int>(DenseTiling::ceil_div(channels, kLanes<A>)) - half, half};
  }
  int all() const { return vectors + half; }
};

// What a sum goes over: taps of a row with their channels, `run` values, in so many rows.
struct Extent {
  int rows, run;
  ptrdiff_t row, pixel;  // from a row of the source to the next, from an output's pixel to the next
  ptrdiff_t down;        // from an output's row to the next

  static Extent of(const DenseConv& op, int64_t channels) {
    const int64_t row = op.columns() * channels;
    return {static_cast<int>(op.down), static_cast<int>(op.across * channels), row,
            op.stride_across * channels, op.stride_down * row};
  }
};

// Two values side by side, over and over.
template <class A>
inline Vector<A> pairs(const A* from) {
  typedef double Wide __attribute__((vector_size(kVectorBytes)));
  double both;
  std::memcpy(&both, from, sizeof both);
  return reinterpret_cast<Vector<A>>(Wide{} + both);
}

// sums[row][pixel][vector] = sum over the extent of x * weights; the weights of vectors are `panel`
// values apart.
template <class A, int kRows, int kPixels, int kVectors, bool kHalf>
void mix(const A* x, const A* weights, ptrdiff_t panel, const Extent& extent, A* sums) {
  constexpr int kTaps = kHalf ? 2 : 1, kAll = kVectors + kHalf;
  Vector<A> sum[kRows][kPixels][kAll] = {};
  for (int tap = 0; tap < extent.rows; ++tap, x += extent.row)
    for (int k = 0; k < extent.run; k += kTaps, weights += kTaps * kLanes<A>) {
#pragma GCC unroll 2
      for (int t = 0; t < kTaps; ++t) {
        Vector<A> w[kVectors + 1];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) w[v] = load(weights + v * panel + t * kLanes<A>);
#pragma GCC unroll 2
        for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 8
          for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v)
              sum[y][p][v] += w[v] * x[y * extent.down + p * extent.pixel + k + t];
      }
      if constexpr (kHalf) {
        const Vector<A> w = load(weights + kVectors * panel);
#pragma GCC unroll 2
        for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 8
          for (int p = 0; p < kPixels; ++p)
            sum[y][p][kVectors] += w * pairs(x + y * extent.down + p * extent.pixel + k);
      }
    }
#pragma GCC unroll 2
  for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kAll; ++v)
        store(sums + ((y * kPixels + p) * kAll + v) * kLanes<A>, sum[y][p][v]);
}

// Gradients of the strips of some images, dense but for the step from one image to the next.
template <class A>
struct Gradients {
  const A* data;
  int images, rows, width;
  ptrdiff_t pixel, image;
};

// to[tap][vector] += sum over pixels of x[tap] * grad; rows of `to` are as far apart as the pixels
// of grad, and images of x `image` values. A half vector is written for two taps at once, as `mix`
// reads it.
template <class A, int kTaps, int kVectors, bool kHalf>
void correlate(const A* x, const Extent& extent, ptrdiff_t image, const Gradients<A>& grads,
               A* to) {
  Vector<A> sum[kTaps][kVectors + 1] = {}, half[kTaps / 2 + 1] = {};
  const ptrdiff_t pitch = grads.pixel;
  for (int row = 0; row < grads.images * grads.rows; ++row) {
    const int n = row / grads.rows, y = row % grads.rows;
    const A* from = x + n * image + y * extent.down;
    const A* grad = grads.data + n * grads.image + y * grads.width * pitch;
    for (int p = 0; p < grads.width; ++p) {
      Vector<A> g[kVectors + 1];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors + kHalf; ++v) g[v] = load(grad + p * pitch + v * kLanes<A>);
#pragma GCC unroll 16
      for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[k][v] += g[v] * from[p * extent.pixel + k];
      if constexpr (kHalf)
#pragma GCC unroll 8
        for (int k = 0; k < kTaps; k += 2)
          half[k / 2] += g[kVectors] * pairs(from + p * extent.pixel + k);
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      A* at = to + k * pitch + v * kLanes<A>;
      store(at, load(at) + sum[k][v]);
    }
  if constexpr (kHalf)
#pragma GCC unroll 8
    for (int k = 0; k < kTaps; k += 2) {
      A* at = to + k * pitch + kVectors * kLanes<A>;
      store(at, load(at) + half[k / 2]);
    }
}

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// Calls body(first, number) with constant numbers, the largest that `kMost` and what is left allow.
// They are even for an even count.
template <int kMost, class Body>
inline void in_parts(int count, const Body& body) {
  int first = 0;
  const auto parts = [&](auto number) {
    if constexpr (number.value <= kMost)
      for (; first + number.value <= count; first += number.value) body(first, number);
  };
  parts(Constant<16>{}), parts(Constant<12>{}), parts(Constant<8>{}), parts(Constant<6>{});
  parts(Constant<4>{}), parts(Constant<2>{}), parts(Constant<1>{});
}

// Calls body(first, number, half) for groups of vectors, with constants; four are two pairs.
template <class A, class Body>
inline void in_groups(const Width& width, const Body& body) {
  const int with_half = width.half ? std::min(width.vectors, width.vectors == 2 ? 2 : 1) : 0;
  const int whole = width.vectors - with_half;
  const std::false_type no{};
  int first = 0;
  for (; whole - first == 3 || whole - first > 4; first += 3) body(first, Constant<3>{}, no);
  for (; whole - first >= 2; first += 2) body(first, Constant<2>{}, no);
  for (; first < whole; ++first) body(first, Constant<1>{}, no);
  if constexpr (kHalves<A>) {
    const std::true_type yes{};
    if (!width.half) return;
    if (with_half == 2) return body(first, Constant<2>{}, yes);
    if (with_half == 1) return body(first, Constant<1>{}, yes);
    body(first, Constant<0>{}, yes);
  }
}

// A channels_last tensor's images.
template <class T>
struct Images {
  T* data;
  int64_t height, width, channels;
  T* row(int64_t image, int64_t y) const { return data + (image * height + y) * width * channels; }
};

template <class A, class T>
void copy_activated(const T* from, int64_t count, bool relu, A* to) {
  const auto copy = [&](auto activated) {
    int64_t i = 0;
    for (; i + kLanes<A> <= count; i += kLanes<A>) store(to + i, activated(load(from + i)));
    const int rest = static_cast<int>(count - i);
    if (rest) store(to + i, activated(load(from + i, rest)), rest);
  };
  if (relu)
    copy([](Vector<A> value) { return value < Vector<A>{} ? Vector<A>{} : value; });
  else
    copy([](Vector<A> value) { return value; });
}

// A strip lies here: rows [top, top + rows) of an image's output.
struct Strip {
  int64_t image, top;
  int rows;
  Strip(const DenseTiling& tiling, int64_t unit, int64_t height)
      : image(unit / tiling.strips),
        top(unit % tiling.strips * tiling.rows),
        rows(static_cast<int>(std::min(tiling.rows, height - top))) {}
};

// The rows that a strip meets, with zeros beyond the image.
template <class T, class A = typename Element<T>::Acc>
void fill(const Images<const T>& from, const Strip& strip, const DenseConv& op, bool relu, A* to) {
  const int64_t row = op.columns() * from.channels, before = op.across / 2 * from.channels;
  const int64_t inside = std::min(from.width * from.channels, row - before);
  const int64_t first = strip.top * op.stride_down - op.down / 2;
  for (int64_t y = first; y < first + op.rows_for(strip.rows); ++y, to += row) {
    if (y < 0 || y >= from.height) {
      std::fill_n(to, row, A{});
      continue;
    }
    std::fill_n(to, before, A{});
    copy_activated<A>(from.row(strip.image, y), inside, relu, to + before);
    std::fill(to + before + inside, to + row, A{});
  }
}

#if defined(__AVX512F__)

constexpr __mmask16 kAllLanes = 0xffff;  // GCC 12 takes what no mask covers for uninitialised

// Lanes 2 i and 2 i + 1 are value i.
inline Vector<float> spread(Vector<float> values) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm512_maskz_permutexvar_ps(kAllLanes, twice, values);
}

// Value i is the sum of lanes 2 i and 2 i + 1.
inline Vector<float> gathered(Vector<float> lanes) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15);
  return _mm512_maskz_permutexvar_ps(kAllLanes, even, lanes) +
         _mm512_maskz_permutexvar_ps(kAllLanes, odd, lanes);
}

#endif

// The sums of channels [channel, ...) of a pixel are written; where a mask is given, as a gradient.
template <bool kHalf, class T, class A = typename Element<T>::Acc>
inline void put(const A* sums, int vectors, T* to, const T* mask, int64_t channel,
                int64_t channels) {
  for (int v = 0; v < vectors + kHalf; ++v, channel += kLanes<A>) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes<A>, channels - channel));
    Vector<A> value = load(sums + v * kLanes<A>);
    if constexpr (kHalf)
      if (v == vectors) value = gathered(value);
    if (mask) value = load(mask + channel, lanes) <= Vector<A>{} ? Vector<A>{} : value;
    store(to + channel, value, lanes);
  }
}

// Weights as panels [vector][row][column][channel of the source][lane]; backward, transposed and
// turned. All threads of a parallel region together.
template <class A>
void pack(const DenseConv& op, const DenseWeights& weights, bool backward, A* packed) {
  const A* from = static_cast<const A*>(weights.data);
  const int64_t sources = backward ? op.out_channels : op.in_channels;
  const int64_t results = backward ? op.in_channels : op.out_channels;
  const int64_t of_source = backward ? weights.over : weights.across;
  const int64_t of_result = backward ? weights.across : weights.over;
  const int64_t taps = op.taps();
  const Width width = Width::of<A>(results, op.across * sources);
#pragma omp for schedule(static) collapse(2)
  for (int64_t v = 0; v < width.all(); ++v)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t place = backward ? taps - 1 - tap : tap;
      const int64_t first = v * kLanes<A>;
      const int64_t lanes = std::min<int64_t>(kLanes<A>, results - first);
      const A* at = from + place / op.across * weights.down + place % op.across * weights.along +
                    first * of_result;
      A* to = packed + (v * taps + tap) * sources * kLanes<A>;
      std::fill_n(to, sources * kLanes<A>, A{});
      const bool half = v == width.vectors;
      for (int64_t c = 0; c < sources; ++c)
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const int64_t place_of =
              half ? c / 2 * 2 * kLanes<A> + 2 * lane + c % 2 : c * kLanes<A> + lane;
          to[place_of] = at[c * of_source + lane * of_result];
        }
    }
}

template <class A>
A* scratch_of(void* scratch, const DenseTiling& tiling) {
  return reinterpret_cast<A*>(static_cast<char*>(scratch) +
                              omp_get_thread_num() * tiling.scratch_bytes);
}

// A strip of one direction. `mask` as in `put`.
template <class T, class A = typename Element<T>::Acc>
void convolve(const Strip& strip, const Extent& extent, const A* source, const A* weights,
              const Images<T>& result, const T* mask) {
  const ptrdiff_t panel = ptrdiff_t{1} * extent.rows * extent.run * kLanes<A>;
  in_groups<A>(Width::of<A>(result.channels, extent.run), [&](int first, auto number, auto half) {
    constexpr int kVectors = number.value, kAll = kVectors + half.value;
    constexpr int kPixels = std::min(kMostPixels, kMostSums / kAll);
    const auto block = [&](int y, int x, auto rows, auto pixels) {
      alignas(64) A sums[kMostSums * kLanes<A>];
      mix<A, rows.value, pixels.value, kVectors, half.value>(
          source + y * extent.down + x * extent.pixel, weights + first * panel, panel, extent,
          sums);
      for (int r = 0; r < rows.value; ++r)
        for (int p = 0; p < pixels.value; ++p) {
          T* to = result.row(strip.image, strip.top + y + r) + (x + p) * result.channels;
          put<half.value>(sums + (r * pixels.value + p) * kAll * kLanes<A>, kVectors, to,
                          mask ? mask + (to - result.data) : nullptr, first * kLanes<A>,
                          result.channels);
        }
    };
    in_parts<kPixels>(static_cast<int>(result.width), [&](int x, auto pixels) {
      int y = 0;
      // Two rows of few pixels are as many independent sums as one of many.
      if constexpr (2 * pixels.value <= kPixels)
        for (; y + 2 <= strip.rows; y += 2) block(y, x, Constant<2>{}, pixels);
      for (; y < strip.rows; ++y) block(y, x, Constant<1>{}, pixels);
    });
  });
}

// All strips of one direction; all threads of a parallel region together. `stride` is 1 backward.
template <class T>
void run_direction(const DenseConv& op, const DenseTiling& tiling, bool backward,
                   const void* source, const DenseWeights& weights, void* packed, void* result,
                   const void* mask, void* scratch) {
  using A = typename Element<T>::Acc;
  const int64_t from = backward ? op.out_channels : op.in_channels;
  const int64_t to = backward ? op.in_channels : op.out_channels;
  const int64_t height = op.out_height(), width = op.out_width();
  const Images<const T> sources{static_cast<const T*>(source), op.height, op.width, from};
  const Images<T> results{static_cast<T*>(result), height, width, to};
  const Extent extent = Extent::of(op, from);
  pack(op, weights, backward, static_cast<A*>(packed));
#pragma omp for schedule(static)
  for (int64_t unit = 0; unit < tiling.units; ++unit) {
    const Strip strip(tiling, unit, height);
    A* tile = scratch_of<A>(scratch, tiling);
    fill(sources, strip, op, op.relu && !backward, tile);
    convolve(strip, extent, tile, static_cast<const A*>(packed), results,
             static_cast<const T*>(mask));
  }
}

// The gradients of a strip's outputs, `pitch` values a pixel: whole vectors, and what is left of
// the channels in one that is padded, or spread.
template <class T, class A = typename Element<T>::Acc>
void fill_gradients(const Images<const T>& grad, const Strip& strip, const Width& width,
                    ptrdiff_t pitch, A* to) {
  const int64_t whole = int64_t{width.vectors} * kLanes<A>, channels = grad.channels;
  for (int y = 0; y < strip.rows; ++y) {
    const T* from = grad.row(strip.image, strip.top + y);
    for (int64_t x = 0; x < grad.width; ++x, from += channels, to += pitch) {
      for (int64_t c = 0; c < whole; c += kLanes<A>)
        store(to + c, load(from + c, static_cast<int>(std::min<int64_t>(kLanes<A>, channels - c))));
      if constexpr (kHalves<A>)
        if (width.half)
          store(to + whole, spread(load(from + whole, static_cast<int>(channels - whole))));
    }
  }
}

// One slice of the strips, to sums [row][column][in channel][out channel].
template <class T>
void weight_gradient(const DenseConvBackward& args, const DenseTiling& tiling, int64_t slice) {
  using A = typename Element<T>::Acc;
  const DenseConv& op = args.op;
  const int64_t columns = op.out_width(), run = op.across * op.in_channels;
  const Width width = Width::of<A>(op.out_channels, run);
  const ptrdiff_t pitch = width.all() * kLanes<A>;
  const Images<const T> x{static_cast<const T*>(args.x), op.height, op.width, op.in_channels};
  const Images<const T> grad{static_cast<const T*>(args.grad), op.out_height(), columns,
                             op.out_channels};
  A* source = scratch_of<A>(args.scratch, tiling);
  A* gradients = source + tiling.together * tiling.source_values;
  A* sums = static_cast<A*>(args.partials) + slice * tiling.partial_values;
  std::fill_n(sums, op.down * run * pitch, A{});
  const Extent extent = Extent::of(op, op.in_channels);
  for (int64_t tile = slice * tiling.tiles / tiling.slices;
       tile < (slice + 1) * tiling.tiles / tiling.slices; ++tile) {
    const int64_t first = tile / tiling.strips * tiling.together;
    const int images = static_cast<int>(std::min(tiling.together, op.images - first));
    Strip strip(tiling, first * tiling.strips + tile % tiling.strips, op.out_height());
    for (int i = 0; i < images; ++i, ++strip.image) {
      fill(x, strip, op, op.relu, source + i * tiling.source_values);
      fill_gradients(grad, strip, width, pitch, gradients + i * tiling.gradient_values);
    }
    in_groups<A>(width, [&](int vector, auto number, auto half) {
      constexpr int kVectors = number.value;
      constexpr int kTaps = std::min(kMostTaps, 2 * kMostSums / (2 * kVectors + half.value));
      const Gradients<A> of{gradients + vector * kLanes<A>, images, strip.rows,
                            static_cast<int>(columns),      pitch,  tiling.gradient_values};
      for (int64_t row = 0; row < op.down; ++row)
        in_parts<kTaps>(static_cast<int>(run), [&](int k, auto count) {
          if constexpr (!half.value || count.value % 2 == 0)
            correlate<A, count.value, kVectors, half.value>(
                source + row * extent.row + k, extent, tiling.source_values, of,
                sums + (row * run + k) * pitch + vector * kLanes<A>);
        });
    });
  }
}

// Sums of all slices, in their order.
template <class A>
void add_slices(const DenseConvBackward& args, const DenseTiling& tiling) {
  const DenseConv& op = args.op;
  const Width width = Width::of<A>(op.out_channels, op.across * op.in_channels);
  const ptrdiff_t pitch = width.all() * kLanes<A>;
  const DenseWeights& of = args.grad_weights;
#pragma omp for schedule(static)
  for (int64_t row = 0; row < op.taps() * op.in_channels; ++row) {
    const int64_t channel = row % op.in_channels, tap = row / op.in_channels;
    A* to = static_cast<A*>(of.data) + channel * of.across + tap / op.across * of.down +
            tap % op.across * of.along;
    for (int v = 0; v < width.all(); ++v) {
      const bool half = v == width.vectors;
      const A* from =
          static_cast<const A*>(args.partials) + (half ? row / 2 * 2 : row) * pitch + v * kLanes<A>;
      double sum[kLanes<A>] = {};
      for (int64_t slice = 0; slice < tiling.slices; ++slice, from += tiling.partial_values)
        for (int lane = 0; lane < kLanes<A>; ++lane) sum[lane] += from[lane];
      const int64_t first = v * kLanes<A>;
      for (int64_t i = 0; i < std::min<int64_t>(kLanes<A>, op.out_channels - first); ++i)
        to[(first + i) * of.over] = static_cast<A>(sum[half ? 2 * i + row % 2 : i]);
    }
  }
}

template <class T>
void forward(const DenseConvForward& args, int threads) {
  const DenseTiling tiling(args.op);
#pragma omp parallel num_threads(threads)
  run_direction<T>(args.op, tiling, false, args.x, args.weights, args.packed, args.y, nullptr,
                   args.scratch);
}

template <class T>
void backward(const DenseConvBackward& args, int threads) {
  const DenseTiling tiling(args.op);
#pragma omp parallel num_threads(threads)
  {
    if (args.grad_x)
      run_direction<T>(args.op, tiling, true, args.grad, args.weights, args.packed, args.grad_x,
                       args.op.relu ? args.x : nullptr, args.scratch);
    if (args.grad_weights.data) {
#pragma omp for schedule(dynamic)
      for (int64_t slice = 0; slice < tiling.slices; ++slice)
        weight_gradient<T>(args, tiling, slice);
      add_slices<typename Element<T>::Acc>(args, tiling);
    }
  }
}

}  // namespace

void dense_conv_forward(const DenseConvForward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void dense_conv_backward(const DenseConvBackward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
