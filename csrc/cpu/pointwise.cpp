// Blocks of pixels by one vector of channels are kept in registers.
#include "../pointwise.h"

#include <algorithm>
#include <cstdint>

#include "element.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

constexpr int kPixels = 8;

// What convolution g of a call reads and writes.
template <class T>
struct Part {
  using Acc = typename Element<T>::Acc;

  Part(const Pointwise& op, int g) : op(op), shift(op.stride == 1 ? 0 : g), outputs(op.outputs[g]) {
    for (int before = 0; before < g; ++before) first += op.outputs[before];
    weights = static_cast<const Acc*>(op.weights[g]);
  }

  const Pointwise& op;
  int shift;
  int64_t outputs, first = 0;
  const Acc* weights;  // [outputs, channels]
};

// The places in x of the output pixels, from one of them on.
template <class T>
class Walk {
 public:
  Walk(const Part<T>& part, int64_t pixel) : part_(part) {
    const int64_t row = pixel / width_;
    j_ = pixel % width_, i_ = row % height_, n_ = row / height_;
  }
  // Where the pixel begins, or -1 where that is beyond the image; then goes on to the next.
  int64_t next() {
    const Pointwise& op = part_.op;
    const int64_t i = i_ * op.stride + part_.shift, j = j_ * op.stride + part_.shift;
    const bool inside = i < op.height && j < op.width;
    const int64_t place = ((n_ * op.height + i) * op.width + j) * op.channels;
    if (++j_ == width_) {
      j_ = 0;
      if (++i_ == height_) i_ = 0, ++n_;
    }
    return inside ? place : -1;
  }

 private:
  const Part<T>& part_;
  int64_t height_ = part_.op.out_height(), width_ = part_.op.out_width();
  int64_t n_, i_, j_;
};

template <class T>
inline typename Element<T>::Acc rectified(T value) {
  const auto wide = Element<T>::load(value);
  return wide < 0 ? 0 : wide;
}

// sum[p] = sum over k < count of value(p, k) * rows[k * pitch ...], one vector of `lanes`.
template <class A, class Value>
inline void products(Vector<A>* sum, const A* rows, int64_t count, int64_t pitch, int lanes,
                     const Value& value) {
  for (int p = 0; p < kPixels; ++p) sum[p] = Vector<A>{};
  for (int64_t k = 0; k < count; ++k) {
    const Vector<A> row = load(rows + k * pitch, lanes);
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) sum[p] += value(p, k) * row;
  }
}

template <class T>
void forward(const PointwiseForward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const Pointwise& op = args.op;
  const T* x = static_cast<const T*>(op.x);
  T* z = static_cast<T*>(args.z);
  const int64_t channels = op.channels, all = op.out_channels(), pixels = op.pixels();
  Acc* transposed = static_cast<Acc*>(args.transposed);
  for (int g = 0; g < op.count; ++g) {
    const Part<T> part(op, g);
    for (int64_t o = 0; o < part.outputs; ++o)
      for (int64_t c = 0; c < channels; ++c)
        transposed[c * all + part.first + o] = part.weights[o * channels + c];
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t block = 0; block < (pixels + kPixels - 1) / kPixels; ++block)
    for (int g = 0; g < op.count; ++g) {
      const Part<T> part(op, g);
      const int64_t start = block * kPixels, here = std::min<int64_t>(kPixels, pixels - start);
      Walk<T> walk(part, start);
      const T* from[kPixels];
      bool inside[kPixels] = {};
      for (int p = 0; p < kPixels; ++p) {
        const int64_t place = p < here ? walk.next() : -1;
        inside[p] = place >= 0;
        from[p] = inside[p] ? x + place : x;
      }
      for (int64_t o = 0; o < part.outputs; o += kLanes<Acc>) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes<Acc>, part.outputs - o));
        Vector<Acc> sum[kPixels];
        products<Acc>(sum, transposed + part.first + o, channels, all, lanes,
                      [&](int p, int64_t c) { return rectified(from[p][c]); });
        for (int p = 0; p < here; ++p)
          store(z + (start + p) * all + part.first + o, inside[p] ? sum[p] : Vector<Acc>{}, lanes);
      }
    }
}

template <class T>
void input_gradient(const PointwiseBackward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const Pointwise& op = args.op;
  const T *x = static_cast<const T*>(op.x), *grad = static_cast<const T*>(args.grad);
  T* grad_x = static_cast<T*>(args.grad_x);
  const int64_t channels = op.channels, all = op.out_channels(), pixels = op.pixels();
  if (op.stride > 1)
    std::fill_n(grad_x, op.images * op.height * op.width * channels, Element<T>::store(0));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t block = 0; block < (pixels + kPixels - 1) / kPixels; ++block)
    for (int g = 0; g < op.count; ++g) {
      const Part<T> part(op, g);
      const int64_t start = block * kPixels, here = std::min<int64_t>(kPixels, pixels - start);
      const T* from[kPixels];
      for (int p = 0; p < kPixels; ++p)
        from[p] = grad + (start + std::min<int64_t>(p, here - 1)) * all + part.first;
      for (int64_t c = 0; c < channels; c += kLanes<Acc>) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes<Acc>, channels - c));
        Vector<Acc> sum[kPixels];
        products<Acc>(sum, part.weights + c, part.outputs, channels, lanes,
                      [&](int p, int64_t o) { return Element<T>::load(from[p][o]); });
        Walk<T> walk(part, start);
        for (int p = 0; p < here; ++p) {
          const int64_t place = walk.next();
          if (place < 0) continue;
          const Vector<Acc> value = load(x + place + c, lanes);
          store(grad_x + place + c, value <= 0 ? Vector<Acc>{} : sum[p], lanes);
        }
      }
    }
}

// The pixels [low, high) of one convolution.
template <class T>
void slice_gradient(const PointwiseBackward& args, const Part<T>& part, int64_t low, int64_t high,
                    typename Element<T>::Acc* to) {
  using Acc = typename Element<T>::Acc;
  const T* x = static_cast<const T*>(args.op.x);
  const int64_t channels = args.op.channels, all = args.op.out_channels();
  const T* grad = static_cast<const T*>(args.grad) + part.first;
  for (int64_t c = 0; c < channels; c += kLanes<Acc>) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes<Acc>, channels - c));
    for (int64_t o = 0; o < part.outputs; o += kPixels) {
      const int64_t here = std::min<int64_t>(kPixels, part.outputs - o);
      Vector<Acc> sum[kPixels] = {};
      Walk<T> walk(part, low);
      for (int64_t p = low; p < high; ++p) {
        const int64_t place = walk.next();
        if (place < 0) continue;
        const Vector<Acc> value = load(x + place + c, lanes);
        const Vector<Acc> active = value < 0 ? Vector<Acc>{} : value;
        const T* g = grad + p * all + o;
        if (here == kPixels) {
#pragma GCC unroll 8
          for (int k = 0; k < kPixels; ++k) sum[k] += Element<T>::load(g[k]) * active;
        } else {
          for (int k = 0; k < here; ++k) sum[k] += Element<T>::load(g[k]) * active;
        }
      }
      for (int k = 0; k < here; ++k) store(to + (o + k) * channels + c, sum[k], lanes);
    }
  }
}

template <class T>
void weight_gradient(const PointwiseBackward& args, int threads) {
  using Acc = typename Element<T>::Acc;
  const Pointwise& op = args.op;
  const int64_t size = op.out_channels() * op.channels, slices = op.slices(), pixels = op.pixels();
  Acc* partials = static_cast<Acc*>(args.partials);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t slice = 0; slice < slices; ++slice)
    for (int g = 0; g < op.count; ++g) {
      const Part<T> part(op, g);
      slice_gradient<T>(args, part, pixels * slice / slices, pixels * (slice + 1) / slices,
                        partials + slice * size + part.first * op.channels);
    }
  const Acc* from = partials;
  for (int g = 0; g < op.count; ++g) {
    Acc* to = static_cast<Acc*>(args.grad_weights[g]);
    for (int64_t i = 0; i < op.outputs[g] * op.channels; ++i, ++from) {
      double sum = 0;
      for (int64_t slice = 0; slice < slices; ++slice) sum += from[slice * size];
      to[i] = static_cast<Acc>(sum);
    }
  }
}

}  // namespace

void pointwise_forward(const PointwiseForward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) { forward<decltype(zero)>(args, threads); });
}

void pointwise_backward(const PointwiseBackward& args, int threads) {
  with_element(args.op.dtype, [&](auto zero) {
    if (args.grad_x) input_gradient<decltype(zero)>(args, threads);
    if (args.partials) weight_gradient<decltype(zero)>(args, threads);
  });
}

}  // namespace asose::cpu::ASOSE_ISA
