// Rows of channels_last images, widened, activated and with a margin of zeros.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "element.h"
#include "simd.h"

namespace asose::cpu::ASOSE_ISA {
namespace {

// This thread's part of a scratch of so many bytes each.
template <class A>
A* scratch_of(void* scratch, int64_t bytes) {
  return reinterpret_cast<A*>(static_cast<char*>(scratch) + omp_get_thread_num() * bytes);
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

// A part of an image: rows and columns, which may lie beyond it.
struct Window {
  int64_t image, top, left, rows, columns;
};

// The window, with zeros beyond the image: copy_row(from, count, to) copies what lies in it.
template <class T, class Row, class A>
void fill_rows(const Images<const T>& from, const Window& window, A* to, const Row& copy_row) {
  const int64_t row = window.columns * from.channels;
  const int64_t before = std::clamp<int64_t>(-window.left, 0, window.columns) * from.channels;
  const int64_t last = std::min(from.width - window.left, window.columns) * from.channels;
  for (int64_t y = window.top; y < window.top + window.rows; ++y, to += row) {
    if (y < 0 || y >= from.height) {
      std::fill_n(to, row, A{});
      continue;
    }
    std::fill_n(to, before, A{});
    copy_row(from.row(window.image, y) + (window.left * from.channels + before), last - before,
             to + before);
    std::fill(to + last, to + row, A{});
  }
}

template <class T, class A = typename Element<T>::Acc>
void fill(const Images<const T>& from, const Window& window, bool relu, A* to) {
  fill_rows(from, window, to, [&](const T* row, int64_t count, A* here) {
    copy_activated<A>(row, count, relu, here);
  });
}

}  // namespace
}  // namespace asose::cpu::ASOSE_ISA
