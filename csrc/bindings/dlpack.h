// The part of DLPack's C interface by which memory is handed to torch, and tensors are looked at,
// without linking it.
#pragma once

#include <cstdint>

namespace asose::dlpack {

struct Device {
  int32_t type, id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t dims;
  DataType type;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
// Of version 0.
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};
// What the capsule `__dlpack_c_exchange_api__` of a class of tensors holds, of version 1.
struct ExchangeApi {
  uint32_t major, minor;
  const void* older;
  void *allocate, *export_managed, *import_managed;
  // Describes a tensor, which stays its owner's; where it cannot, it sets Python's error and does
  // not return 0.
  int (*describe)(void* object, Tensor* description);
  void* current_stream;
};

constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2, kBfloat = 4;

}  // namespace asose::dlpack
