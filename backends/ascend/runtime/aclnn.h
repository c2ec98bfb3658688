// The two-phase form of every aclnn function: aclnnXGetWorkspaceSize checks its arguments and plans, aclnnX puts the
// plan on a stream. Like the chips' kernels, these read and write only memory of the device, and run asynchronously.
//
//   ACLNN(aclnnNeg)(const aclTensor* self, aclTensor* out, PLANNED) {
//     return plan(HERE, [&]() -> Work {
//       const View x = view(self), y = view(out);
//       return [=] { ... };
//     });
//   }
#pragma once

#include <functional>
#include <string>

#include "rows.h"
#include "tensor.h"

struct aclOpExecutor {
  std::function<void()> work;
  bool waits = false;  // the second phase returns when the work is done, as the caller then asks for a size
};

namespace v4npu::runtime {

using Work = std::function<void()>;

Status plan(const char* function, uint64_t* workspace, aclOpExecutor** executor, const std::function<Work()>& make);

// Makes a successful plan one whose second phase returns when the work is done.
inline Status waiting(Status status, aclOpExecutor** executor) {
  if (status == ACL_SUCCESS) (*executor)->waits = true;
  return status;
}

Status launch(const char* function, aclOpExecutor* executor, StreamHandle stream);

// The tensor's view, all of it inside device memory; throws Error.
View view(const aclTensor* tensor);

// Checks that v has these sizes.
void require_sizes(const View& v, const Sizes& sizes);

}  // namespace v4npu::runtime

#define PLANNED uint64_t *workspace, aclOpExecutor **executor
#define HERE __func__, workspace, executor
#define ACLNN(name)                                                                    \
  ACL_API Status name(void*, uint64_t, aclOpExecutor* executor, StreamHandle stream) { \
    return v4npu::runtime::launch(#name, executor, stream);                            \
  }                                                                                    \
  ACL_API Status name##GetWorkspaceSize
