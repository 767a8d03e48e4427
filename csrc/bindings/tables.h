// Tables of channels in the dtype of a parameter, which the kernels know in float64.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "../dtype.h"
#include "arguments.h"

namespace asose {

// Calls body with a pointer to the element type.
template <class Body>
void with_table(uintptr_t given, int64_t dtype, const Body& body) {
  switch (static_cast<DType>(dtype)) {
    case DType::f32:
      return body(address<float>(given));
    case DType::f64:
      return body(address<double>(given));
    case DType::bf16:
      return body(address<bfloat16>(given));
    case DType::f16:
      break;
  }
  throw std::invalid_argument("tables of channels must not be of this element type");
}

// What is read. An absent table is null.
class WideTable {
 public:
  WideTable(uintptr_t given, int64_t dtype, int64_t channels) {
    if (!given) return;
    with_table(given, dtype, [&](const auto* from) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
      values_.reserve(channels);
      for (int64_t c = 0; c < channels; ++c) values_.push_back(Element<T>::load(from[c]));
    });
  }

  const double* data() const { return values_.empty() ? nullptr : values_.data(); }

 private:
  std::vector<double> values_;
};

// What is written; an absent table is null, and nothing is stored.
class ResultTable {
 public:
  ResultTable(uintptr_t given, int64_t dtype, int64_t channels)
      : given_(given), dtype_(dtype), values_(given ? channels : 0) {}

  double* data() { return given_ ? values_.data() : nullptr; }

  void store() const { store(values_.data()); }

  void store(const double* from) const {
    if (!given_) return;
    with_table(given_, dtype_, [&](auto* to) {
      using T = std::remove_pointer_t<decltype(to)>;
      using Acc = typename Element<T>::Acc;
      for (size_t c = 0; c < values_.size(); ++c)
        to[c] = Element<T>::store(static_cast<Acc>(from[c]));
    });
  }

 private:
  uintptr_t given_;
  int64_t dtype_;
  std::vector<double> values_;
};

}  // namespace asose
