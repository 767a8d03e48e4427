// Runs a launch: its blocks one after the other, a block's threads as fibers, each until it waits
// at a barrier. The order of blocks and threads is a setting: results that depend on it betray a
// missing barrier. Shared memory starts as NaN; that beyond what the launch asked for is out of
// bounds. What AddressSanitizer finds becomes an exception.
#include <dlfcn.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace asose::cuda {
extern thread_local uint4 dynamic_shared[];
thread_local uint4 dynamic_shared[emulation::kMaxShared / sizeof(uint4)];
}  // namespace asose::cuda

namespace emulation {
namespace {

constexpr size_t kStackBytes = 256 * 1024;  // AddressSanitizer's report needs much of it

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  ucontext_t context;
  void* stack = nullptr;
  void* fake_stack = nullptr;
  State state = State::ready;
};

// 0: as numbered; 1: backwards; else shuffled by this seed.
unsigned order = 0;
int64_t launches = 0;
std::string report;

std::vector<Fiber> fibers;
uint64_t slots[1024];
ucontext_t scheduler;
void* scheduler_fake_stack;
const void* scheduler_stack;
size_t scheduler_stack_bytes;
const std::function<void()>* body;

// AddressSanitizer's own swapcontext forgets, slowly, all that it knows of the stack.
int swap(ucontext_t* from, const ucontext_t* to) {
  static const auto libc = reinterpret_cast<int (*)(ucontext_t*, const ucontext_t*)>(
      dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "swapcontext"));
  return libc(from, to);
}

std::vector<unsigned> ordered(unsigned count, std::mt19937& random) {
  std::vector<unsigned> result(count);
  std::iota(result.begin(), result.end(), 0u);
  if (order == 1) std::reverse(result.begin(), result.end());
  if (order > 1) std::shuffle(result.begin(), result.end(), random);
  return result;
}

// Leaves the running thread in `state`; it goes on when the scheduler comes back to it.
void leave(State state) {
  Fiber& self = fibers[threadIdx.x];
  self.state = state;
  __sanitizer_start_switch_fiber(state == State::done ? nullptr : &self.fake_stack, scheduler_stack,
                                 scheduler_stack_bytes);
  swap(&self.context, &scheduler);
  __sanitizer_finish_switch_fiber(self.fake_stack, nullptr, nullptr);
}

__attribute__((no_sanitize("address"))) void enter() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
  (*body)();
  leave(State::done);
}

void resume(unsigned thread) {
  Fiber& fiber = fibers[thread];
  threadIdx = dim3(thread, 0, 0);
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack, kStackBytes);
  swap(&scheduler, &fiber.context);
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
}

// Frees the threads [first, last) if all that are left wait in `state`; tells whether it did.
bool release(unsigned first, unsigned last, State state) {
  bool waiting = false;
  for (unsigned t = first; t < last; ++t) {
    if (fibers[t].state == State::done) continue;
    if (fibers[t].state != state) return false;
    waiting = true;
  }
  for (unsigned t = first; t < last; ++t)
    if (fibers[t].state == state) fibers[t].state = State::ready;
  return waiting;
}

void prepare(Fiber& fiber) {
  if (!fiber.stack)
    fiber.stack =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (fiber.stack == MAP_FAILED) throw std::bad_alloc();
  // A thread that was left at a barrier did not tidy up.
  if (fiber.state != State::done) ASAN_UNPOISON_MEMORY_REGION(fiber.stack, kStackBytes);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
  fiber.state = State::ready;
}

void run_block(std::mt19937& random) {
  const unsigned threads = blockDim.x;
  for (unsigned t = 0; t < threads; ++t) prepare(fibers[t]);
  for (unsigned done = 0; done < threads;) {
    for (const unsigned t : ordered(threads, random)) {
      if (fibers[t].state != State::ready) continue;
      resume(t);
      done += fibers[t].state == State::done;
    }
    bool released = release(0, threads, State::at_block_barrier);
    for (unsigned first = 0; first < threads; first += kWarp)
      released |= release(first, std::min(first + kWarp, threads), State::at_warp_barrier);
    if (!released && done < threads)
      throw std::runtime_error(
          "CUDA emulation: not all threads of a block came to the same barrier");
  }
}

void keep_report(const char* text) {
  if (report.empty()) report = std::string(text).substr(0, 1000);
}

}  // namespace

void block_barrier() { leave(State::at_block_barrier); }
void warp_barrier() { leave(State::at_warp_barrier); }
uint64_t& warp_slot(unsigned lane) { return slots[threadIdx.x / kWarp * kWarp + lane]; }

void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()>& thread) {
  __asan_set_error_report_callback(keep_report);
  report.clear();
  ++launches;
  if (fibers.size() < block.x) fibers.resize(block.x);
  gridDim = grid, blockDim = block, body = &thread;
  std::mt19937 random(order);
  char* const memory = reinterpret_cast<char*>(asose::cuda::dynamic_shared);
  for (const unsigned index : ordered(grid.x, random)) {
    blockIdx = dim3(index, 0, 0);
    ASAN_UNPOISON_MEMORY_REGION(memory, kMaxShared);
    std::memset(memory, 0xff, shared);
    ASAN_POISON_MEMORY_REGION(memory + shared, kMaxShared - shared);
    run_block(random);
    if (!report.empty()) throw std::runtime_error("CUDA emulation: " + report);
  }
}

}  // namespace emulation

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void emulation_set_order(unsigned order) { emulation::order = order; }
EXPORT int64_t emulation_launches() { return emulation::launches; }
