// Dense convolutions along one axis on the CPU: a register holds sums of some lanes and one plane
// of output channels while taps and input channels go by. Positions outside the image are not
// computed with, rather than padded.
#include "../line_conv.h"

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "element.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

template <class A>
constexpr int kWidth = LineTiling::kPixelBytes / sizeof(A);  // channels of a plane
constexpr int kVectors = LineTiling::kPixelBytes / kVectorBytes;
constexpr int kRows = 12 / kVectors;  // pixels or channels whose sums fit the registers
constexpr int kGroupPlanes = 2;       // whose weights of one plane of outputs fit the L1 cache
constexpr int kMaxTileLanes = LineTiling::kTilePixels;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return LineTiling::ceil_div(a, b); }

// Some lanes of a tensor.
template <class T>
struct Block {
  T* data;
  Lines lines;
  int count;
  int64_t begin[kMaxTileLanes], next[kMaxTileLanes];  // of this tile's lanes and of the next tile's

  Block(T* data, const Lines& lines, int64_t first, int64_t most)
      : data(data), lines(lines), count(static_cast<int>(std::min(most, lines.lanes - first))) {
    for (int lane = 0; lane < count; ++lane) {
      begin[lane] = lines.begin(first + lane);
      next[lane] = lines.begin(std::min(first + most + lane, lines.lanes - 1));
    }
  }
  int64_t offset(int64_t position, int lane) const { return begin[lane] + position * lines.step; }

  // Calls channels [channel, end) of the next tile into the cache: lanes [first, last) of a
  // position.
  void fetch(int64_t position, int first, int last, int64_t channel, int64_t end) const {
    constexpr int64_t kLine = 64 / sizeof(T);
    for (int lane = first; lane < last; ++lane)
      for (int64_t c = channel; c < end; c += kLine)
        __builtin_prefetch(data + next[lane] + position * lines.step + c, 0, 2);
  }
};

// So many lanes of vector v of a plane hold channels.
template <class A>
int lanes_of(int64_t channels, int64_t first, int v) {
  return static_cast<int>(std::clamp<int64_t>(channels - first - v * kLanes<A>, 0, kLanes<A>));
}

// Planes [first, last) of a block, `pitch` lanes a position, with zeros for channels beyond the
// last.
template <class T>
void fill(const Block<const T>& from, int first, int last, bool relu, int pitch,
          typename Element<T>::Acc* to) {
  using A = typename Element<T>::Acc;
  const int64_t plane = from.lines.length * pitch * kWidth<A>, channels = from.lines.channels;
  const auto put = [relu](A* target, Vector<A> value) {
    if (relu) value = value < Vector<A>{} ? Vector<A>{} : value;
    store(target, value);
  };
  const auto copy = [&](int64_t position, int lane) {
    const T* pixel = from.data + from.offset(position, lane);
    A* target = to + (position * pitch + lane) * kWidth<A>;
    for (int p = first; p < last; ++p, target += plane) {
      const int64_t channel = p * kWidth<A>;
      const bool whole = channel + kWidth<A> <= channels;
      for (int v = 0; v < kVectors; ++v) {
        const T* at = pixel + channel + v * kLanes<A>;
        put(target + v * kLanes<A>, whole ? load(at) : load(at, lanes_of<A>(channels, channel, v)));
      }
    }
  };
  if (from.lines.step > from.lines.pitch) {
    for (int64_t position = 0; position < from.lines.length; ++position)
      for (int lane = 0; lane < from.count; ++lane) copy(position, lane);
  } else {
    for (int lane = 0; lane < from.count; ++lane)
      for (int64_t position = 0; position < from.lines.length; ++position) copy(position, lane);
  }
}

// What one call sums up: taps `tap` values of weights and `source` values of x apart, channels of
// planes `plane` values apart.
struct Extent {
  int taps, channels;
  ptrdiff_t tap, source, plane;
};

// sums[pixel] (+)= sum over taps and channels of x[pixel] * weights
template <class A, int kPixels>
void mix(const A* x, const A* weights, const Extent& extent, bool first, A* sums) {
  Vector<A> sum[kPixels][kVectors] = {};
  if (!first)
    for (int p = 0; p < kPixels; ++p)
      for (int v = 0; v < kVectors; ++v) sum[p][v] = load(sums + p * kWidth<A> + v * kLanes<A>);
  for (int tap = 0; tap < extent.taps; ++tap) {
    const A* from = x + tap * extent.source;
    const A* weight = weights + tap * extent.tap;
    for (int channel = 0; channel < extent.channels; channel += kWidth<A>, from += extent.plane) {
      const int count = std::min(kWidth<A>, extent.channels - channel);
#pragma GCC unroll 4
      for (int c = 0; c < count; ++c, weight += kWidth<A>) {
        Vector<A> w[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) w[v] = load(weight + v * kLanes<A>);
#pragma GCC unroll 16
        for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) sum[p][v] += w[v] * from[p * kWidth<A> + c];
      }
    }
  }
  for (int p = 0; p < kPixels; ++p)
    for (int v = 0; v < kVectors; ++v) store(sums + p * kWidth<A> + v * kLanes<A>, sum[p][v]);
}

// to[row] += sum over positions and lanes of x[row] * grad; x and grad go on by so many values from
// one position to the next.
template <class A, int kCount>
void correlate(const A* x, ptrdiff_t x_step, const A* grad, ptrdiff_t grad_step, int positions,
               int lanes, A* to) {
  Vector<A> sum[kCount][kVectors];
  for (int r = 0; r < kCount; ++r)
    for (int v = 0; v < kVectors; ++v) sum[r][v] = load(to + r * kWidth<A> + v * kLanes<A>);
  for (int position = 0; position < positions; ++position, x += x_step, grad += grad_step)
#pragma GCC unroll 4
    for (int lane = 0; lane < lanes; ++lane) {
      Vector<A> g[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) g[v] = load(grad + lane * kWidth<A> + v * kLanes<A>);
#pragma GCC unroll 16
      for (int r = 0; r < kCount; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] += g[v] * x[lane * kWidth<A> + r];
    }
  for (int r = 0; r < kCount; ++r)
    for (int v = 0; v < kVectors; ++v) store(to + r * kWidth<A> + v * kLanes<A>, sum[r][v]);
}

// The kernels above by the number of rows, 1 to kRows.
template <class A>
struct Kernels1D {
  decltype(&mix<A, 1>) mix[kRows];
  decltype(&correlate<A, 1>) correlate[kRows];

  template <int... kCounts>
  static constexpr Kernels1D of(std::integer_sequence<int, kCounts...>) {
    return {{ASOSE_ISA::mix<A, kCounts + 1>...}, {ASOSE_ISA::correlate<A, kCounts + 1>...}};
  }
};
template <class A>
constexpr Kernels1D<A> kByRows = Kernels1D<A>::of(std::make_integer_sequence<int, kRows>{});

// [0, count) in as few and as equal parts of at most kRows as there can be.
template <class Function>
void in_parts(int count, const Function& function) {
  const int parts = (count + kRows - 1) / kRows;
  for (int part = 0, begin = 0; part < parts; ++part) {
    const int size = (count - begin + parts - part - 1) / (parts - part);
    function(begin, size);
    begin += size;
  }
}

// The first tap of a position of the results, where in the source it comes from, how many follow.
struct Taps {
  int64_t first, source;
  int count;
};

// One direction of the convolution: position i of the results takes tap t from position
// (i * up + t - pad) / down of the source, where that is a whole number.
struct Direction {
  int64_t up, down, pad, kernel;
  Lines from, to;
  std::vector<Taps> taps;

  Direction(const LineConv& op, bool backward)
      : up(backward ? 1 : op.stride),
        down(backward ? op.stride : 1),
        pad(op.pad()),
        kernel(op.kernel),
        from(backward ? op.out() : op.in()),
        to(backward ? op.in() : op.out()) {
    taps.reserve(to.length);
    for (int64_t i = 0; i < to.length; ++i) {
      const int64_t distance = pad - i * up;
      int64_t first = std::max<int64_t>(distance, 0);
      first += ((distance - first) % down + down) % down;
      const int64_t source = (first - distance) / down;
      const int64_t most = first < kernel ? (kernel - 1 - first) / down + 1 : 0;
      taps.push_back(
          {first, source, static_cast<int>(std::clamp<int64_t>(from.length - source, 0, most))});
    }
  }

  // So many positions of the source belong to the results before position i.
  int64_t reach(int64_t i) const { return i * from.length / to.length; }
};

// Weights in the order in which they are read, [plane of results][group of planes of sources][tap]
// [channel][kWidth]; all threads of a parallel region together. Backward, taps are turned round.
template <class A>
void pack(const LineConv& op, const Direction& direction, bool backward, const A* weight,
          A* packed) {
  const int64_t from = direction.from.channels, to = direction.to.channels;
  const int64_t across = op.kernel * op.in_channels;
  const int64_t to_pitch = backward ? op.kernel : across;
  const int64_t from_pitch = backward ? across : op.kernel;
  constexpr int64_t kGroup = kGroupPlanes * kWidth<A>;
#pragma omp for schedule(static)
  for (int64_t row = 0; row < ceil_div(to, kWidth<A>) * from; ++row) {
    const int64_t first = row / from * kWidth<A>, channel = row % from;
    const int64_t group = channel / kGroup * kGroup, size = std::min(kGroup, from - group);
    const int64_t lanes = std::min<int64_t>(kWidth<A>, to - first);
    A* target = packed + ((row - channel + group) * op.kernel + channel - group) * kWidth<A>;
    for (int64_t tap = 0; tap < op.kernel; ++tap, target += size * kWidth<A>) {
      const A* value =
          weight + first * to_pitch + channel * from_pitch + (backward ? op.kernel - 1 - tap : tap);
      for (int64_t i = 0; i < lanes; ++i) target[i] = value[i * to_pitch];
      std::fill(target + lanes, target + kWidth<A>, A{});
    }
  }
}

// Channels from `channel` on of a pixel of the results; 0 where `mask`, that pixel before the
// activation, is there and not positive.
template <class T, class A = typename Element<T>::Acc>
inline void put(const A* sums, T* pixel, const T* mask, int64_t channel, int64_t channels) {
  const bool whole = channel + kWidth<A> <= channels;
  for (int v = 0; v < kVectors; ++v) {
    const int64_t at = channel + v * kLanes<A>;
    const int lanes = whole ? kLanes<A> : lanes_of<A>(channels, channel, v);
    Vector<A> value = load(sums + v * kLanes<A>);
    if (mask) value = load(mask + at, lanes) <= Vector<A>{} ? Vector<A>{} : value;
    store(pixel + at, value, lanes);
  }
}

// One tile of results.
template <class T>
void convolve(const Direction& direction, const typename Element<T>::Acc* packed,
              const Block<const T>& source, bool relu, const Block<T>& result, const T* mask,
              int pitch, typename Element<T>::Acc* x) {
  using A = typename Element<T>::Acc;
  constexpr int64_t kGroup = kGroupPlanes * kWidth<A>;
  const int64_t from = direction.from.channels, to = direction.to.channels;
  const int planes = static_cast<int>(ceil_div(from, kWidth<A>));
  const int64_t row = pitch * kWidth<A>, plane = direction.from.length * row;
  A* sums = x + planes * plane;
  fill(source, 0, planes, relu, pitch, x);
  for (int64_t channel = 0; channel < to; channel += kWidth<A>)
    for (int64_t group = 0; group < from; group += kGroup) {
      const int64_t size = std::min(kGroup, from - group);
      const A* weights = packed + (channel * from + group * kWidth<A>)*direction.kernel;
      in_parts(result.count, [&](int lane, int count) {
        const auto run = kByRows<A>.mix[count - 1];
        const A* tile = x + group / kWidth<A> * plane + lane * kWidth<A>;
        A* sum = sums + lane * kWidth<A>;
        for (int64_t i = 0; i < direction.to.length; ++i, sum += row) {
          const Taps& taps = direction.taps[i];
          run(tile + taps.source * row, weights + taps.first * size * kWidth<A>,
              {taps.count, static_cast<int>(size), direction.down * size * kWidth<A>, row, plane},
              group == 0, sum);
          if (group + size < from) continue;
          if (channel == 0)
            for (int64_t at = direction.reach(i); at < direction.reach(i + 1); ++at)
              source.fetch(at, lane, lane + count, 0, from);
          result.fetch(i, lane, lane + count, channel, std::min(channel + kWidth<A>, to));
          for (int p = 0; p < count; ++p) {
            const int64_t pixel = result.offset(i, lane + p);
            put(sum + p * kWidth<A>, result.data + pixel, mask ? mask + pixel : nullptr, channel,
                to);
          }
        }
      });
    }
}

template <class A>
A* scratch_of(void* scratch, const LineTiling& tiling) {
  return reinterpret_cast<A*>(static_cast<char*>(scratch) +
                              omp_get_thread_num() * tiling.scratch_bytes);
}

// All tiles of one direction; all threads of a parallel region together. `mask` as in `put`.
template <class T>
void run_direction(const LineConv& op, const LineTiling& tiling, const Direction& direction,
                   bool backward, const void* source, const void* weight, void* packed,
                   void* result, const void* mask, void* scratch) {
  using A = typename Element<T>::Acc;
  A* weights = static_cast<A*>(packed);
  pack(op, direction, backward, static_cast<const A*>(weight), weights);
#pragma omp for schedule(static)
  for (int64_t tile = 0; tile < tiling.tiles; ++tile) {
    const int64_t lane = tile * tiling.lanes;
    convolve<T>(direction, weights,
                Block<const T>(static_cast<const T*>(source), direction.from, lane, tiling.lanes),
                op.relu && !backward,
                Block<T>(static_cast<T*>(result), direction.to, lane, tiling.lanes),
                static_cast<const T*>(mask), static_cast<int>(tiling.lanes),
                scratch_of<A>(scratch, tiling));
  }
}

// One slice of tiles, one group of planes of outputs: sums [plane][tap][in channel][kWidth].
template <class T>
void weight_gradient(const LineConvBackward& args, const LineTiling& tiling, int64_t slice,
                     int64_t group) {
  using A = typename Element<T>::Acc;
  constexpr int64_t kWide = kWidth<A>;
  const LineConv& op = args.op;
  const Lines in = op.in(), out = op.out();
  const int first = static_cast<int>(group * LineTiling::kOutPlanes);
  const int last = std::min<int>(first + LineTiling::kOutPlanes, tiling.out_planes);
  const int in_planes = static_cast<int>(tiling.in_planes), pitch = static_cast<int>(tiling.lanes);
  const int64_t row = pitch * kWide, plane_values = op.kernel * op.in_channels * kWide;
  A* x = scratch_of<A>(args.scratch, tiling);
  A* grad = x + in_planes * in.length * row;
  A* sums = static_cast<A*>(args.partials) + slice * tiling.partial_values + first * plane_values;
  std::fill_n(sums, (last - first) * plane_values, A{});

  // Output positions [begin, end) of a tile of so many lanes, as far as the tap meets the image.
  const auto add = [&](int64_t begin, int64_t end, int lanes, int plane, int of, int64_t tap) {
    begin = std::max(begin, ceil_div(std::max<int64_t>(op.pad() - tap, 0), op.stride));
    end = std::min(end, ceil_div(std::max<int64_t>(in.length + op.pad() - tap, 0), op.stride));
    if (begin >= end) return;
    const A* from = x + (plane * in.length + begin * op.stride + tap - op.pad()) * row;
    const A* g = grad + ((of - first) * out.length + begin) * row;
    A* to = sums + (of - first) * plane_values + (tap * op.in_channels + plane * kWide) * kWide;
    const int channels = static_cast<int>(std::min(kWide, op.in_channels - plane * kWide));
    in_parts(channels, [&](int channel, int count) {
      kByRows<A>.correlate[count - 1](from + channel, op.stride * row, g, row,
                                      static_cast<int>(end - begin), lanes, to + channel * kWide);
    });
  };

  // As many positions at once as the L1 cache holds of one plane of each.
  const int64_t chunk = std::max<int64_t>(LineTiling::kTilePixels / pitch / 2, 1);
  for (int64_t tile = slice * tiling.tiles / tiling.slices;
       tile < (slice + 1) * tiling.tiles / tiling.slices; ++tile) {
    const Block<const T> source(static_cast<const T*>(args.x), in, tile * pitch, pitch);
    const Block<const T> of(static_cast<const T*>(args.grad), out, tile * pitch, pitch);
    fill(source, 0, in_planes, op.relu, pitch, x);
    fill(of, first, last, false, pitch, grad);
    for (int64_t begin = 0; begin < out.length; begin += chunk) {
      const int64_t end = std::min(begin + chunk, out.length);
      for (int plane = 0; plane < in_planes; ++plane)
        for (int64_t tap = 0; tap < op.kernel; ++tap) {
          for (int p = first; p < last; ++p) add(begin, end, source.count, plane, p, tap);
          for (int64_t at = begin + tap; at < end; at += op.kernel) {
            for (int64_t i = at * op.stride; i < std::min((at + 1) * op.stride, in.length); ++i)
              source.fetch(i, 0, source.count, plane * kWide,
                           std::min((plane + 1) * kWide, op.in_channels));
            if (plane == 0)
              of.fetch(at, 0, of.count, first * kWide, std::min(last * kWide, op.out_channels));
          }
        }
    }
  }
}

// Sums of all slices, in their order, as [out channel][in channel][tap].
template <class A>
void add_slices(const LineConvBackward& args, const LineTiling& tiling) {
  const LineConv& op = args.op;
  const int64_t rows = tiling.out_planes * op.kernel * op.in_channels;
#pragma omp for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t channel = row % op.in_channels, tap = row / op.in_channels % op.kernel;
    const int64_t first = row / op.in_channels / op.kernel * kWidth<A>;
    double sum[kWidth<A>] = {};
    for (int64_t slice = 0; slice < tiling.slices; ++slice) {
      const A* from =
          static_cast<const A*>(args.partials) + slice * tiling.partial_values + row * kWidth<A>;
      for (int i = 0; i < kWidth<A>; ++i) sum[i] += from[i];
    }
    A* to = static_cast<A*>(args.grad_weight);
    for (int64_t i = 0; i < std::min<int64_t>(kWidth<A>, op.out_channels - first); ++i)
      to[((first + i) * op.in_channels + channel) * op.kernel + tap] = static_cast<A>(sum[i]);
  }
}

template <class T>
void forward(const LineConvForward& args, int threads) {
  const LineTiling tiling(args.op);
  const Direction direction(args.op, false);
#pragma omp parallel num_threads(threads)
  run_direction<T>(args.op, tiling, direction, false, args.x, args.weight, args.packed, args.y,
                   nullptr, args.scratch);
}

template <class T>
void backward(const LineConvBackward& args, int threads) {
  const LineTiling tiling(args.op);
  const Direction direction(args.op, true);
#pragma omp parallel num_threads(threads)
  {
    if (args.grad_x)
      run_direction<T>(args.op, tiling, direction, true, args.grad, args.weight, args.packed,
                       args.grad_x, args.op.relu ? args.x : nullptr, args.scratch);
    if (args.grad_weight) {
#pragma omp for schedule(dynamic) collapse(2)
      for (int64_t slice = 0; slice < tiling.slices; ++slice)
        for (int64_t group = 0; group < tiling.out_groups; ++group)
          weight_gradient<T>(args, tiling, slice, group);
      add_slices<typename Element<T>::Acc>(args, tiling);
    }
  }
}

}  // namespace

void line_conv_forward(const LineConvForward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void line_conv_backward(const LineConvBackward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { backward<decltype(zero)>(args, threads); });
}

}  // namespace asose::cpu::ASOSE_ISA
