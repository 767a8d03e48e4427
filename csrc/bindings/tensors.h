// Tensors that bindings look at themselves, where Python would ask each of them for one thing after
// the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>

#include "../dtype.h"
#include "dlpack.h"
#include "module.h"

namespace asose {

// A tensor of f32 or f64 in the CPU's memory, whose elements leave no gaps there. It is valid as
// long as the tensor stays as it is.
struct DenseTensor {
  DType dtype;
  int32_t dims;
  const int64_t* shape;
  bool channels_last;  // and not contiguous
  int64_t elements;
  uintptr_t address;

  bool is_like(const DenseTensor& other) const {
    return dtype == other.dtype && channels_last == other.channels_last && dims == other.dims &&
           std::equal(shape, shape + dims, other.shape);
  }
};

// Whether elements follow one another where `axis(i)` is the i-th axis from the fastest.
template <class Axis>
bool follow(const dlpack::Tensor& tensor, const Axis& axis) {
  int64_t stride = 1;
  for (int32_t i = 0; i < tensor.dims; ++i) {
    const int32_t d = axis(i);
    if (tensor.shape[d] == 1) continue;
    if (tensor.strides[d] != stride) return false;
    stride *= tensor.shape[d];
  }
  return true;
}

class Exchange {
 public:
  // From `torch.Tensor.__dlpack_c_exchange_api__`.
  explicit Exchange(const py::capsule& capsule)
      : api_(*capsule.get_pointer<const dlpack::ExchangeApi>()) {
    if (api_.major != 1) throw std::invalid_argument("DLPack's exchange API must be of version 1");
  }

  // Nothing for what cannot be looked at. It is valid as long as the tensor stays as it is.
  std::optional<dlpack::Tensor> describe(PyObject* object) const {
    dlpack::Tensor found;
    if (!api_.describe(object, &found)) return found;
    PyErr_Clear();
    return std::nullopt;
  }

  // Nothing for a tensor of another kind. Raises where its memory is gone.
  std::optional<DenseTensor> dense(PyObject* object) const {
    const auto described = describe(object);
    if (!described) return std::nullopt;
    const dlpack::Tensor& found = *described;
    const bool wide = found.type.code == dlpack::kFloat && found.type.lanes == 1 &&
                      (found.type.bits == 32 || found.type.bits == 64);
    if (found.device.type != dlpack::kCpu || !wide) return std::nullopt;
    int64_t elements = 1;
    for (int32_t d = 0; d < found.dims; ++d) elements *= found.shape[d];
    const bool contiguous =
        !elements || follow(found, [&](int32_t i) { return found.dims - 1 - i; });
    constexpr int32_t kChannelsLast[] = {1, 3, 2, 0};
    if (!contiguous &&
        !(found.dims == 4 && follow(found, [&](int32_t i) { return kChannelsLast[i]; })))
      return std::nullopt;
    if (elements && !found.data) throw std::invalid_argument("a tensor has no memory");
    return DenseTensor{found.type.bits == 64 ? DType::f64 : DType::f32,
                       found.dims,
                       found.shape,
                       !contiguous,
                       elements,
                       reinterpret_cast<uintptr_t>(found.data) + found.byte_offset};
  }

 private:
  const dlpack::ExchangeApi& api_;
};

}  // namespace asose
