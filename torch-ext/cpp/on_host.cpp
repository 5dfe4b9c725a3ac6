// Runs a launch's threads on this thread of the host, as coroutines that give way at a barrier.
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "on_host.h"

namespace began::on_host {
namespace {

// Kernels call nothing but arithmetic, yet the dynamic linker may look up a function of libm on such a stack.
constexpr size_t STACK = 64 << 10;

struct Coroutine {
  std::unique_ptr<char[]> stack{new char[STACK]};
  ucontext_t context;
  bool done = false;
};

// Stacks are kept: the next block has as many threads, as a rule.
thread_local std::vector<std::unique_ptr<Coroutine>> coroutines;
thread_local Coroutine* running = nullptr;
thread_local ucontext_t scheduler;
thread_local const std::function<void()>* body = nullptr;

void enter() {
  (*body)();
  running->done = true;
}

void begin(Coroutine& coroutine) {
  coroutine.done = false;
  getcontext(&coroutine.context);
  coroutine.context.uc_stack.ss_sp = coroutine.stack.get();
  coroutine.context.uc_stack.ss_size = STACK;
  coroutine.context.uc_link = &scheduler;
  makecontext(&coroutine.context, enter, 0);
}

// The n-th of `count` in this order.
unsigned in_order(Order order, unsigned n, unsigned count) { return order == Order::ASCENDING ? n : count - 1 - n; }

void run_block(unsigned threads, Order order) {
  for (unsigned thread = 0; thread < threads; ++thread) begin(*coroutines[thread]);
  for (unsigned ended = 0; ended == 0;) {
    for (unsigned n = 0; n < threads; ++n) {
      threadIdx.x = in_order(order, n, threads);
      running = coroutines[threadIdx.x].get();
      swapcontext(&scheduler, &running->context);
      ended += running->done;
    }
    if (ended != 0 && ended != threads)
      throw std::runtime_error(std::to_string(threads - ended) + " of " + std::to_string(threads) +
                               " threads of a block wait at a barrier that the others do not reach");
  }
}

}  // namespace

void __syncthreads() { swapcontext(&running->context, &scheduler); }

void run(unsigned blocks, unsigned threads, const Shared& shared, Order order, const std::function<void()>& kernel) {
  if (shared.bytes > shared.capacity)
    throw std::runtime_error("a launch wants " + std::to_string(shared.bytes) + " bytes of shared memory, the host has " +
                             std::to_string(shared.capacity));
  while (coroutines.size() < threads) coroutines.push_back(std::make_unique<Coroutine>());
  body = &kernel;
  gridDim.x = blocks;
  blockDim.x = threads;
  for (unsigned n = 0; n < blocks; ++n) {
    blockIdx.x = in_order(order, n, blocks);
    // All ones is a NaN to f32 and to bfloat16: what is read before it is written shows in the result.
    auto* const memory = static_cast<unsigned char*>(shared.memory);
    std::memset(memory, 0xff, shared.capacity);
    run_block(threads, order);
    if (std::any_of(memory + shared.bytes, memory + shared.capacity, [](unsigned char byte) { return byte != 0xff; }))
      throw std::runtime_error("a block wrote behind its " + std::to_string(shared.bytes) + " bytes of shared memory");
  }
}

}  // namespace began::on_host
