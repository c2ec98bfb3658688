// Threads of a block as stacks that hand the processor to each other. A stack is entered once through ucontext and then
// by longjmp, which asks the operating system for nothing.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

namespace v4npu::cuda::emulation {

constexpr size_t kStackBytes = 64 << 10;

class Fiber {
 public:
  Fiber() {
    stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack_ == MAP_FAILED) throw std::runtime_error("no memory for the stack of a thread");
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() { munmap(stack_, kStackBytes); }

  bool owns(const void* p) const {
    return static_cast<size_t>(static_cast<const char*>(p) - static_cast<const char*>(stack_)) < kStackBytes;
  }

  // Forgets what it was doing.
  void reset() { started_ = false; }

  // Runs it until it leaves.
  void enter(void (*body)()) {
    current() = this;
    if (_setjmp(outside_) != 0) return;
    if (started_) _longjmp(inside_, 1);
    started_ = true;
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, body, 0);
    setcontext(&context_);
  }

  // From inside: until it is entered again.
  void leave() {
    if (_setjmp(inside_) == 0) _longjmp(outside_, 1);
  }

  static Fiber*& current() {
    static Fiber* fiber = nullptr;
    return fiber;
  }

 private:
  void* stack_ = nullptr;
  bool started_ = false;
  jmp_buf inside_{}, outside_{};
  ucontext_t context_{};
};

}  // namespace v4npu::cuda::emulation
