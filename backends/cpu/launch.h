// What a CPU launcher needs: checks, the fallback, dtypes, and the one switch from the instruction set to its kernel.
#pragma once

#include "isa.h"
#include "ops/checks.h"
#include "ops/reference.h"
#include "torch/csrc/stable/library.h"
#include "torch/csrc/stable/ops.h"
#include "v4npu/dtype.h"

// Those that kernels.cmake adds to `portable`.
#if defined(__x86_64__)
#define V4NPU_CPU_EACH_ISA(X, op, Params) X(amx, op, Params) X(avx512, op, Params) X(avx2, op, Params)
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

// Declares the entry of ops/<op>_kernel.cpp in every instruction set, and run_kernel, which calls the chosen one.
#define V4NPU_CPU_KERNEL(op, Params)                  \
  V4NPU_CPU_EACH_ISA(V4NPU_CPU_DECLARE_, op, Params)  \
  V4NPU_CPU_DECLARE_(portable, op, Params)            \
  inline void run_kernel(const Params& p) {           \
    switch (isa()) {                                  \
      V4NPU_CPU_EACH_ISA(V4NPU_CPU_CASE_, op, Params) \
      default: return portable::op(p);                \
    }                                                 \
  }

namespace v4npu::cpu {

// Whether kernels take the dtype of activations as it is; all else is the reference's.
inline bool native(ScalarType type) { return type == ScalarType::Float || type == ScalarType::BFloat16; }
inline bool native(const Tensor& t) { return native(t.scalar_type()); }
inline bool native(const OptTensor& t) { return !t || native(*t); }
inline bool is_float32(const OptTensor& t) { return !t || t->scalar_type() == ScalarType::Float; }

// Of a native tensor.
inline Dtype dtype_of(const Tensor& t) {
  return t.scalar_type() == ScalarType::Float ? Dtype::kFloat32 : Dtype::kBfloat16;
}

// Contiguous; named so that it does not meet torch::stable::contiguous.
inline Tensor dense(const Tensor& t) { return torch::stable::contiguous(t); }
inline OptTensor dense(const OptTensor& t) { return t ? OptTensor(dense(*t)) : OptTensor(); }

template <class T>
const T* pointer(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
const T* pointer(const OptTensor& t) {
  return t ? pointer<T>(*t) : nullptr;
}

}  // namespace v4npu::cpu
