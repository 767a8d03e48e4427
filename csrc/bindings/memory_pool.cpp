#include "../runtime/memory_pool.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "../dtype.h"
#include "arguments.h"
#include "dlpack.h"
#include "module.h"

namespace asose {
namespace {

// `shape` and `strides` are what the managed tensor points to.
struct PooledTensor {
  dlpack::ManagedTensor managed;
  Integers shape, strides;
};

void return_to_pool(dlpack::ManagedTensor* managed) {
  cpu::MemoryPool::shared().give(managed->tensor.data);
  delete static_cast<PooledTensor*>(managed->context);
}

// The bytes from the first element to the last. Throws std::bad_alloc where no memory is so large.
size_t bytes_of(const Integers& shape, const Integers& strides, int64_t element) {
  int64_t last = 0, bytes = 0;
  bool fits = true;
  for (size_t d = 0; d < shape.size(); ++d) {
    expect_at_least("a size", shape[d], 1);
    expect_at_least("a stride", strides[d], 0);
    int64_t step = 0;
    fits = fits && !__builtin_mul_overflow(shape[d] - 1, strides[d], &step) &&
           !__builtin_add_overflow(last, step, &last);
  }
  fits = fits && !__builtin_add_overflow(last, 1, &last) &&
         !__builtin_mul_overflow(last, element, &bytes);
  if (!fits) throw std::bad_alloc();
  return static_cast<size_t>(bytes);
}

// It gives a DLPack capsule of an uninitialised tensor from the pool.
py::capsule pool_empty(int dtype, Integers shape, Integers strides) {
  expect_between("dtype", dtype, 0, static_cast<int>(DType::f16));
  expect_count("strides", strides.size(), static_cast<int64_t>(shape.size()));
  const DType type = static_cast<DType>(dtype);
  const uint8_t bits = type == DType::f64 ? 64 : type == DType::f32 ? 32 : 16;
  const size_t bytes = bytes_of(shape, strides, bits / 8);
  const uint8_t code = type == DType::bf16 ? dlpack::kBfloat : dlpack::kFloat;
  auto tensor = std::make_unique<PooledTensor>();
  tensor->shape = std::move(shape), tensor->strides = std::move(strides);
  tensor->managed = {{cpu::MemoryPool::shared().take(bytes),
                      {dlpack::kCpu, 0},
                      static_cast<int32_t>(tensor->shape.size()),
                      {code, bits, 1},
                      tensor->shape.data(),
                      tensor->strides.data(),
                      0},
                     tensor.get(),
                     return_to_pool};
  // Whoever takes the tensor renames the capsule; until then it owns the tensor.
  return py::capsule(&tensor.release()->managed, "dltensor", [](PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, "dltensor")) return;
    return_to_pool(static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor")));
  });
}

// It gives uninitialised memory of the pool, as a capsule that returns it, and its address.
py::tuple pool_workspace(int64_t bytes) {
  expect_at_least("bytes", bytes, 1);
  void* const block = cpu::MemoryPool::shared().take(static_cast<size_t>(bytes));
  const py::capsule held(block, [](void* given) { cpu::MemoryPool::shared().give(given); });
  return py::make_tuple(held, reinterpret_cast<uintptr_t>(block));
}

const Binding memory_pool_binding([](py::module_& module) {
  module.def("pool_empty", &pool_empty);
  module.def("pool_workspace", &pool_workspace);
  module.def("pool_release", [] { cpu::MemoryPool::shared().release(); });
});

}  // namespace
}  // namespace asose
