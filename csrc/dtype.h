// The element types of the kernels; narrow ones are widened for arithmetic.
#pragma once

#include <cstdint>
#include <cstring>

namespace asose {

// f16 is for the GPU kernels alone.
enum class DType : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3 };

struct bfloat16 {
  uint16_t bits;
};

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// Sums of a dtype are kept in values of so many bytes: those of Element<T>::Acc.
constexpr int64_t accumulation_bytes(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

// Values of a dtype are of so many bytes.
constexpr int64_t element_bytes(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

// Acc is the type that sums are kept in.
template <class T>
struct Element {
  using Acc = T;
  static inline Acc load(T value) { return value; }
  static inline T store(Acc value) { return value; }
};

template <>
struct Element<bfloat16> {
  using Acc = float;

  static inline float load(bfloat16 value) {
    const uint32_t wide = static_cast<uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &wide, sizeof result);
    return result;
  }

  // Rounds to nearest even; every NaN becomes the quiet NaN.
  static inline bfloat16 store(float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, sizeof wide);
    const uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>(value != value ? 0x7fc0u : rounded)};
  }
};

}  // namespace

}  // namespace asose
