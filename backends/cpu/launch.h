// What a CPU launcher needs: checks, the fallback, dtypes, and the one switch from the instruction set to its kernel.
#pragma once

#include "isa.h"
#include "ops/checks.h"
#include "ops/reference.h"
#include "ops/tensors.h"
#include "runtime/capture.h"
#include "torch/csrc/stable/library.h"

namespace v4npu::cpu {

// All the memory that a launch needs for itself. Launches of a capture follow each other and share it: what one wrote
// to is still in the processor's caches when the next one wants it.
inline Tensor workspace_of(const Tensor& like, int64_t count) {
  Capture* const capture = Capture::current();
  if (capture == nullptr) return bytes(like, count);
  Tensor& shared = capture->workspace();
  if (!shared.defined() || shared.numel() < count) shared = bytes(like, count);
  return shared;
}

}  // namespace v4npu::cpu

// Those that kernels.cmake adds to `portable`.
#if defined(__x86_64__)
#define V4NPU_CPU_EACH_ISA(X, op, Params) \
  X(amx, op, Params) X(avx512, op, Params) X(avx512f, op, Params) X(avx2, op, Params)
#elif defined(__aarch64__)
#define V4NPU_CPU_EACH_ISA(X, op, Params) X(neon, op, Params)
#else
#define V4NPU_CPU_EACH_ISA(X, op, Params)
#endif

#define V4NPU_CPU_DECLARE_(isa_name, op, Params) \
  namespace isa_name {                           \
  void op(const Params& p);                      \
  }
#define V4NPU_CPU_CASE_(isa_name, op, Params) \
  case Isa::isa_name: return isa_name::op(p);

// Declares the entry of ops/<op>_kernel.cpp in every instruction set, kernel, which calls the chosen one, and
// run_kernel, by which launchers do so.
#define V4NPU_CPU_KERNEL(op, Params)                  \
  V4NPU_CPU_EACH_ISA(V4NPU_CPU_DECLARE_, op, Params)  \
  V4NPU_CPU_DECLARE_(portable, op, Params)            \
  inline void kernel(const Params& p) {               \
    switch (isa()) {                                  \
      V4NPU_CPU_EACH_ISA(V4NPU_CPU_CASE_, op, Params) \
      default: return portable::op(p);                \
    }                                                 \
  }                                                   \
  inline void run_kernel(const Params& p) { launch(&kernel, p); }
