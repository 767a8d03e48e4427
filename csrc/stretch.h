// A workspace as the arrays that it is made of.
#pragma once

#include <cstdint>

namespace asose {

// This is in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// Arrays that lie one after the other, each from a cache line on. Without a place, they are only
// counted.
class Stretch {
 public:
  explicit Stretch(void* begin) : begin_(static_cast<char*>(begin)) {}

  template <class T = void>
  T* take(int64_t bytes) {
    char* const found = begin_ ? begin_ + bytes_ : nullptr;
    bytes_ += (bytes + kLine - 1) / kLine * kLine;
    return static_cast<T*>(static_cast<void*>(found));
  }

  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kLine = 64;

  char* begin_;
  int64_t bytes_ = 0;
};

}  // namespace
}  // namespace asose
