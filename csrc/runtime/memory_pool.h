// Memory for large outputs that is kept when they die, for the next ones of their size: fresh pages
// cost more than many a kernel. At most 64 MiB, or an eighth, more than ever was in use at once is
// held.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

namespace asose::cpu {

class MemoryPool {
 public:
  // The block is uninitialised, and 64-byte aligned or better. Throws std::bad_alloc.
  void* take(size_t bytes);
  void give(void* block);
  // Returns everything that is not in use to the system.
  void release();

  // The process has one pool. It is never destroyed: tensors may outlive everything else.
  static MemoryPool& shared();

 private:
  void shrink(size_t cached);  // frees blocks, the largest first, until no more than that is left

  std::mutex mutex_;
  std::multimap<size_t, void*> free_;
  std::map<void*, size_t> sizes_;  // of the blocks in use
  size_t in_use_ = 0, most_in_use_ = 0, cached_ = 0;
};

}  // namespace asose::cpu
