// What launchers of native kernels ask of their tensors.
#pragma once

#include "ops/checks.h"
#include "torch/csrc/stable/ops.h"
#include "v4npu/dtype.h"

namespace v4npu {

// Whether kernels take the dtype of activations as it is; all else is the reference's.
inline bool native(ScalarType type) { return type == ScalarType::Float || type == ScalarType::BFloat16; }
inline bool native(const Tensor& t) { return native(t.scalar_type()); }
inline bool native(const OptTensor& t) { return !t || native(*t); }
inline bool is_float32(const OptTensor& t) { return !t || t->scalar_type() == ScalarType::Float; }

// Of a native dtype.
inline Dtype dtype_of(ScalarType type) { return type == ScalarType::Float ? Dtype::kFloat32 : Dtype::kBfloat16; }
inline Dtype dtype_of(const Tensor& t) { return dtype_of(t.scalar_type()); }

// Memory for a kernel's own use, where `like` lies.
inline Tensor bytes(const Tensor& like, int64_t count) {
  return torch::stable::new_empty(like, {count}, ScalarType::Byte);
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

template <class T>
T* writable(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

}  // namespace v4npu
