#include "memory_pool.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace asose::cpu {
namespace {

constexpr size_t kGrain = 64 << 10, kHugePage = 2 << 20;

void* allocate(size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, bytes < kHugePage ? kGrain : kHugePage, bytes)) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (bytes >= kHugePage) madvise(block, bytes, MADV_HUGEPAGE);
#endif
  return block;
}

}  // namespace

void* MemoryPool::take(size_t bytes) {
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
    shrink(most + most / 4 - (in_use_ + bytes));
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
  free_.emplace(bytes, block);
}

void MemoryPool::release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  shrink(0);
}

void MemoryPool::shrink(size_t cached) {
  while (cached_ > cached) {
    const auto largest = std::prev(free_.end());
    cached_ -= largest->first;
    std::free(largest->second);
    free_.erase(largest);
  }
}

MemoryPool& MemoryPool::shared() {
  static MemoryPool* pool = new MemoryPool;
  return *pool;
}

}  // namespace asose::cpu
