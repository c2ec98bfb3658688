// What aclnn functions are given: views of device memory, scalars and arrays.
#pragma once

#include <cstdint>
#include <vector>

#include "error.h"

namespace v4npu::runtime {

using Sizes = std::vector<int64_t>;

struct View {
  char* data = nullptr;  // of the first element
  DataType type = ACL_FLOAT;
  Sizes sizes, strides;  // strides in elements

  int64_t dim() const { return static_cast<int64_t>(sizes.size()); }
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t size : sizes) n *= size;
    return n;
  }
  int64_t axis(int64_t d) const;  // d, counted from the back if negative; throws Error
};

int64_t item_size(DataType type);  // throws Error for a type that is not emulated
const char* name_of(DataType type);
bool is_floating(DataType type);

View transposed(View v, int64_t a, int64_t b);
View broadcast(const View& v, const Sizes& sizes);                    // to sizes; throws Error
View with_sizes(const View& v, const Sizes& sizes);                   // of a contiguous view
View contiguous_like(char* data, DataType type, const Sizes& sizes);  // row-major

}  // namespace v4npu::runtime

struct aclTensor {
  v4npu::runtime::View view;
};
struct aclScalar {
  DataType type;
  double real;
  int64_t integer;
};
struct aclIntArray {
  v4npu::runtime::Sizes values;
};
struct aclFloatArray {
  std::vector<float> values;
};
struct aclBoolArray {
  std::vector<bool> values;
};
struct aclTensorList {
  std::vector<const aclTensor*> tensors;
};
struct aclScalarList {
  std::vector<const aclScalar*> scalars;
};
