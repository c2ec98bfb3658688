// Creation and destruction of the handles.
#include "tensor.h"

#include <algorithm>
#include <cstring>

#include "rows.h"

namespace v4npu::runtime {

int64_t View::axis(int64_t d) const {
  const int64_t rank = std::max<int64_t>(dim(), 1);
  require(d >= -rank && d < rank, "dimension " + std::to_string(d) + " of a tensor of rank " + std::to_string(dim()));
  return d < 0 ? d + rank : d;
}

int64_t item_size(DataType type) {
  int64_t bytes = 0;
  with_codec(type, [&](auto codec) { bytes = sizeof(typename decltype(codec)::Raw); });
  return bytes;
}

const char* name_of(DataType type) {
  switch (type) {
    case ACL_FLOAT: return "float32";
    case ACL_FLOAT16: return "float16";
    case ACL_INT8: return "int8";
    case ACL_INT32: return "int32";
    case ACL_UINT8: return "uint8";
    case ACL_INT16: return "int16";
    case ACL_UINT16: return "uint16";
    case ACL_UINT32: return "uint32";
    case ACL_INT64: return "int64";
    case ACL_UINT64: return "uint64";
    case ACL_DOUBLE: return "float64";
    case ACL_BOOL: return "bool";
    case ACL_BF16: return "bfloat16";
    case ACL_FLOAT8_E4M3FN: return "float8_e4m3fn";
    case ACL_FLOAT8_E8M0: return "float8_e8m0";
  }
  return "of a type that is not emulated";
}

bool is_floating(DataType type) {
  return type == ACL_FLOAT || type == ACL_FLOAT16 || type == ACL_BF16 || type == ACL_DOUBLE ||
         type == ACL_FLOAT8_E4M3FN || type == ACL_FLOAT8_E8M0;
}

View transposed(View v, int64_t a, int64_t b) {
  std::swap(v.sizes[a], v.sizes[b]);
  std::swap(v.strides[a], v.strides[b]);
  return v;
}

View broadcast(const View& v, const Sizes& sizes) {
  View wide = v;
  wide.sizes = sizes;
  wide.strides.assign(sizes.size(), 0);
  const int64_t lead = static_cast<int64_t>(sizes.size()) - v.dim();
  require(lead >= 0, "a tensor of rank " + std::to_string(v.dim()) + " does not broadcast to rank " +
                         std::to_string(sizes.size()));
  for (int64_t d = 0; d < v.dim(); ++d) {
    if (v.sizes[d] == sizes[lead + d])
      wide.strides[lead + d] = v.strides[d];
    else
      require(v.sizes[d] == 1,
              "size " + std::to_string(v.sizes[d]) + " does not broadcast to " + std::to_string(sizes[lead + d]));
  }
  return wide;
}

View contiguous_like(char* data, DataType type, const Sizes& sizes) {
  View v{data, type, sizes, Sizes(sizes.size())};
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0; stride *= sizes[d]) v.strides[d] = stride;
  return v;
}

View with_sizes(const View& v, const Sizes& sizes) {
  View flat = contiguous_like(v.data, v.type, v.sizes);
  for (int64_t d = 0; d < v.dim(); ++d)
    require(v.sizes[d] == 1 || v.strides[d] == flat.strides[d], "the tensor must be contiguous");
  flat = contiguous_like(v.data, v.type, sizes);
  require(flat.numel() == v.numel(), "the number of elements differs");
  return flat;
}

}  // namespace v4npu::runtime

using namespace v4npu::runtime;

ACL_API aclTensor* aclCreateTensor(const int64_t* sizes, uint64_t rank, int type, const int64_t* strides,
                                   int64_t offset, int, const int64_t*, uint64_t, void* data) {
  auto* tensor = new aclTensor;
  tensor->view.type = static_cast<DataType>(type);
  tensor->view.sizes.assign(sizes, sizes + rank);
  tensor->view.strides.assign(strides, strides + rank);
  tensor->view.data = static_cast<char*>(data);
  // A type that is not emulated is refused by whatever reads it.
  (void)guarded("aclCreateTensor", [&] { tensor->view.data += offset * item_size(tensor->view.type); });
  return tensor;
}
ACL_API Status aclDestroyTensor(const aclTensor* tensor) {
  delete tensor;
  return ACL_SUCCESS;
}

ACL_API aclScalar* aclCreateScalar(void* value, int type) {
  auto* scalar = new aclScalar{static_cast<DataType>(type), 0, 0};
  const Status status = guarded("aclCreateScalar", [&] {
    with_codec(scalar->type, [&](auto codec) {
      typename decltype(codec)::Raw raw;
      std::memcpy(&raw, value, sizeof raw);
      scalar->real = codec.template decode<double>(raw);
      scalar->integer = codec.template decode<int64_t>(raw);
    });
  });
  if (status == ACL_SUCCESS) return scalar;
  delete scalar;
  return nullptr;
}
ACL_API Status aclDestroyScalar(const aclScalar* scalar) {
  delete scalar;
  return ACL_SUCCESS;
}

ACL_API aclIntArray* aclCreateIntArray(const int64_t* values, uint64_t size) {
  return new aclIntArray{{values, values + size}};
}
ACL_API Status aclDestroyIntArray(const aclIntArray* array) {
  delete array;
  return ACL_SUCCESS;
}
ACL_API aclFloatArray* aclCreateFloatArray(const float* values, uint64_t size) {
  return new aclFloatArray{{values, values + size}};
}
ACL_API Status aclDestroyFloatArray(const aclFloatArray* array) {
  delete array;
  return ACL_SUCCESS;
}
ACL_API aclBoolArray* aclCreateBoolArray(const bool* values, uint64_t size) {
  return new aclBoolArray{std::vector<bool>(values, values + size)};
}
ACL_API Status aclDestroyBoolArray(const aclBoolArray* array) {
  delete array;
  return ACL_SUCCESS;
}

// A list owns what it lists, as documented.
ACL_API aclTensorList* aclCreateTensorList(const aclTensor* const* tensors, uint64_t size) {
  return new aclTensorList{{tensors, tensors + size}};
}
ACL_API Status aclDestroyTensorList(const aclTensorList* list) {
  if (list == nullptr) return ACL_SUCCESS;
  for (const aclTensor* tensor : list->tensors) delete tensor;
  delete list;
  return ACL_SUCCESS;
}
ACL_API aclScalarList* aclCreateScalarList(const aclScalar* const* scalars, uint64_t size) {
  return new aclScalarList{{scalars, scalars + size}};
}
ACL_API Status aclDestroyScalarList(const aclScalarList* list) {
  if (list == nullptr) return ACL_SUCCESS;
  for (const aclScalar* scalar : list->scalars) delete scalar;
  delete list;
  return ACL_SUCCESS;
}

// aclnn functions whose result has a size that only the device knows set it here.
ACL_API Status aclGetViewShape(const aclTensor* tensor, int64_t** sizes, uint64_t* rank) {
  *rank = tensor->view.sizes.size();
  *sizes = new int64_t[*rank];  // the caller deletes it, as documented
  std::copy(tensor->view.sizes.begin(), tensor->view.sizes.end(), *sizes);
  return ACL_SUCCESS;
}
