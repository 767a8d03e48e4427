#include "memory_pool.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace asose::cpu {
namespace {

constexpr size_t kAlignment = 64, kGrain = 64 << 10, kHugePage = 2 << 20;
// Steps of small networks want blocks of other sizes in turn, and find all of them in so much.
constexpr size_t kSpare = 64 << 20;

#ifdef MADV_HUGEPAGE
// Large blocks come from the system directly: through malloc, aligning them would leave holes.
void* allocate_large(size_t bytes) {
  void* mapped =
      mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  char* begin = static_cast<char*>(mapped);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kHugePage;
  if (before) munmap(begin, before);
  if (before < kHugePage) munmap(begin + before + bytes, kHugePage - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}
#endif

void* allocate(size_t bytes) {
#ifdef MADV_HUGEPAGE
  if (bytes >= kHugePage) return allocate_large(bytes);
#endif
  void* block = nullptr;
  if (posix_memalign(&block, kAlignment, bytes)) throw std::bad_alloc();
  return block;
}

void deallocate(void* block, size_t bytes) {
#ifdef MADV_HUGEPAGE
  if (bytes >= kHugePage) {
    munmap(block, bytes);
    return;
  }
#endif
  std::free(block);
}

}  // namespace

void* MemoryPool::take(size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  bytes = (bytes + kGrain - 1) / kGrain * kGrain;
  const std::lock_guard<std::mutex> lock(mutex_);
  void* block;
  const auto found = free_.lower_bound(bytes);
  if (found != free_.end() && found->first <= bytes + bytes / 4) {
    bytes = found->first;
    block = found->second;
    free_.erase(found);
    cached_ -= bytes;
  } else {
    const size_t most = std::max(most_in_use_, in_use_ + bytes);
    shrink(most + std::max(most / 8, kSpare) - (in_use_ + bytes));
    block = allocate(bytes);
  }
  sizes_[block] = bytes;
  in_use_ += bytes;
  most_in_use_ = std::max(most_in_use_, in_use_);
  return block;
}

void MemoryPool::give(void* block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = sizes_.find(block);
  const size_t bytes = found->second;
  sizes_.erase(found);
  in_use_ -= bytes;
  cached_ += bytes;
  free_.emplace_hint(free_.lower_bound(bytes), bytes, block);  // first out, while the cache has it
}

void MemoryPool::release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  shrink(0);
}

void MemoryPool::shrink(size_t cached) {
  while (cached_ > cached) {
    const auto largest = std::prev(free_.end());
    cached_ -= largest->first;
    deallocate(largest->second, largest->first);
    free_.erase(largest);
  }
}

MemoryPool& MemoryPool::shared() {
  static MemoryPool* pool = new MemoryPool;
  return *pool;
}

}  // namespace asose::cpu
