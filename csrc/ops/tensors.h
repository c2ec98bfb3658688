// What launchers of native kernels ask of their tensors.
#pragma once

#include <memory>
#include <vector>

#include "ops/checks.h"
#include "runtime/capture.h"
#include "runtime/heap.h"
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

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

// From this size on a tensor has a block of its own (runtime/heap.h): the C library would map it anew each time.
constexpr int64_t kBlockBytes = int64_t{32} << 20;

// A contiguous tensor on the CPU in a block of its own, which resize_ cannot make larger; if it is as large as that and
// there is one.
inline OptTensor in_block(Sizes sizes, ScalarType type, int32_t dtype) {
  auto bytes = static_cast<int64_t>(aoti_torch_dtype_element_size(dtype));
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return {};
  }
  if (bytes < kBlockBytes) return {};
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * sizes[i];
  std::unique_ptr<void, void (*)(void*)> block(take_block(bytes), &give_back_block);
  if (block == nullptr) return {};
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  Tensor out = torch::stable::from_blob(block.get(), sizes, strides, cpu, type, &give_back_block);
  block.release();
  return out;
}

// A contiguous tensor on the device of `like`, not yet written. Not by torch::stable::new_empty, which looks its
// operator up by name in every call: a decode step makes some 400 tensors.
inline Tensor uninitialised(const Tensor& like, Sizes sizes, ScalarType type) {
  auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  int32_t strided = aoti_torch_layout_strided(), device = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  OptTensor out = device == aoti_torch_device_type_cpu() ? in_block(sizes, type, dtype) : OptTensor();
  if (!out) {
    AtenTensorHandle made = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_aten_new_empty(like.get(), sizes.data(), static_cast<int64_t>(sizes.size()),
                                                     &dtype, &strided, &device, index, nullptr, &made));
    out = Tensor(made);
  }
  if (Capture* capture = Capture::current()) capture->keep(*out);
  return *out;
}
inline Tensor uninitialised(const Tensor& like, Sizes sizes) { return uninitialised(like, sizes, like.scalar_type()); }
inline Tensor uninitialised_like(const Tensor& t) { return uninitialised(t, t.sizes()); }

// Memory for a kernel's own use, on the device of `like`.
inline Tensor bytes(const Tensor& like, int64_t count) { return uninitialised(like, {count}, ScalarType::Byte); }

// Contiguous; named so that it does not meet torch::stable::contiguous.
inline Tensor dense(const Tensor& t) {
  if (t.is_contiguous()) return t;
  if (Capture* capture = Capture::current()) capture->miss();
  return torch::stable::contiguous(t);
}
inline OptTensor dense(const OptTensor& t) { return t ? OptTensor(dense(*t)) : OptTensor(); }

// A stack of matrices, each dense; they may lie apart, as the halves of [n, 2, rows, columns] do.
struct Matrices {
  Tensor stack;
  int64_t rows_apart;  // from one matrix to the next

  explicit Matrices(const Tensor& t) : stack(t), rows_apart(t.size(1)) {
    const int64_t columns = t.size(2);
    if (t.is_contiguous()) return;
    if (t.stride(2) == 1 && t.stride(1) == columns && t.stride(0) > 0 && t.stride(0) % columns == 0) {
      rows_apart = t.stride(0) / columns;
    } else {
      stack = dense(t);
    }
  }
};

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
