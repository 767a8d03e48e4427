#include "../runtime/memory_pool.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <tuple>
#include <utility>
#include <vector>

#include "../dtype.h"
#include "arguments.h"
#include "dlpack.h"
#include "module.h"

namespace asose {
namespace {

// Memory of the pool, which it returns to when the last one who has it lets go.
using Block = std::shared_ptr<char>;

Block take_block(size_t bytes) {
  return Block(static_cast<char*>(cpu::MemoryPool::shared().take(bytes)),
               [](char* block) { cpu::MemoryPool::shared().give(block); });
}

// `shape` and `strides` are what the managed tensor points to.
struct PooledTensor {
  dlpack::ManagedTensor managed;
  Integers shape, strides;
  Block block;
};

void let_go(dlpack::ManagedTensor* managed) { delete static_cast<PooledTensor*>(managed->context); }

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

// What a tensor is like.
struct Kind {
  Integers shape, strides;
  uint8_t code, bits;
  size_t bytes;

  Kind(int dtype, Integers shape, Integers strides)
      : shape(std::move(shape)), strides(std::move(strides)) {
    expect_between("dtype", dtype, 0, static_cast<int>(DType::f16));
    expect_count("strides", this->strides.size(), static_cast<int64_t>(this->shape.size()));
    const DType type = static_cast<DType>(dtype);
    code = type == DType::bf16 ? dlpack::kBfloat : dlpack::kFloat;
    bits = type == DType::f64 ? 64 : type == DType::f32 ? 32 : 16;
    bytes = bytes_of(this->shape, this->strides, bits / 8);
  }

  // A DLPack capsule of an uninitialised tensor at this place of a block.
  py::capsule at(char* place, Block block) const {
    auto tensor = std::make_unique<PooledTensor>();
    tensor->shape = shape, tensor->strides = strides, tensor->block = std::move(block);
    tensor->managed = {{place,
                        {dlpack::kCpu, 0},
                        static_cast<int32_t>(shape.size()),
                        {code, bits, 1},
                        tensor->shape.data(),
                        tensor->strides.data(),
                        0},
                       tensor.get(),
                       let_go};
    // Whoever takes the tensor renames the capsule; until then it owns the tensor.
    return py::capsule(&tensor.release()->managed, "dltensor", [](PyObject* capsule) {
      if (!PyCapsule_IsValid(capsule, "dltensor")) return;
      let_go(static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor")));
    });
  }
};

py::capsule pool_empty(int dtype, Integers shape, Integers strides) {
  const Kind kind(dtype, std::move(shape), std::move(strides));
  Block block = take_block(kind.bytes);
  return kind.at(block.get(), block);
}

// Tensors of these kinds share a block: malloc takes longer for each than a small kernel runs.
class PooledTensors {
 public:
  explicit PooledTensors(const std::vector<std::tuple<int, Integers, Integers>>& kinds) {
    for (const auto& [dtype, shape, strides] : kinds) {
      kinds_.emplace_back(dtype, shape, strides);
      starts_.push_back(bytes_);
      if (kinds_.back().bytes > SIZE_MAX / 2 - bytes_) throw std::bad_alloc();
      bytes_ += (kinds_.back().bytes + kLine - 1) / kLine * kLine;
    }
  }

  // Capsules as `pool_empty` gives them.
  std::vector<py::capsule> empty() const {
    std::vector<py::capsule> found;
    if (kinds_.empty()) return found;
    found.reserve(kinds_.size());
    const Block block = take_block(bytes_);
    for (size_t i = 0; i < kinds_.size(); ++i)
      found.push_back(kinds_[i].at(block.get() + starts_[i], block));
    return found;
  }

 private:
  static constexpr size_t kLine = 64;
  std::vector<Kind> kinds_;
  std::vector<size_t> starts_;
  size_t bytes_ = 0;
};

// It gives uninitialised memory of the pool, as a capsule that returns it, and its address.
py::tuple pool_workspace(int64_t bytes) {
  expect_at_least("bytes", bytes, 1);
  void* const block = cpu::MemoryPool::shared().take(static_cast<size_t>(bytes));
  const py::capsule held(block, [](void* given) { cpu::MemoryPool::shared().give(given); });
  return py::make_tuple(held, reinterpret_cast<uintptr_t>(block));
}

// Gives free memory of malloc back to the system, where malloc can.
void trim() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

const Binding memory_pool_binding([](py::module_& module) {
  module.def("pool_empty", &pool_empty);
  py::class_<PooledTensors>(module, "PooledTensors")
      .def(py::init<std::vector<std::tuple<int, Integers, Integers>>>())
      .def("empty", &PooledTensors::empty);
  module.def("pool_workspace", &pool_workspace);
  module.def("trim", &trim);
  module.def("pool_release", [] { cpu::MemoryPool::shared().release(); });
});

}  // namespace
}  // namespace asose
