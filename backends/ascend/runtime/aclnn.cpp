#include "aclnn.h"

#include <mutex>

#include "memory.h"
#include "stream.h"

namespace v4npu::runtime {
namespace {

// torch_npu may look at the second phase's status only, and on another thread.
std::mutex mutex;
std::string last_refusal;

}  // namespace

Status plan(const char* function, uint64_t* workspace, aclOpExecutor** executor, const std::function<Work()>& make) {
  std::string name = function;
  name.resize(name.size() - std::string("GetWorkspaceSize").size());
  *workspace = 0;
  *executor = nullptr;
  try {
    *executor = new aclOpExecutor{make()};
    return ACL_SUCCESS;
  } catch (const Error& error) {
    const std::lock_guard lock(mutex);
    last_refusal = name + ": " + error.what();
    return fail(error.code, last_refusal);
  }
}

Status launch(const char* function, aclOpExecutor* executor, StreamHandle stream) {
  if (executor == nullptr) {
    const std::lock_guard lock(mutex);
    return fail(ACL_ERROR_INVALID_PARAM,
                last_refusal.empty() ? std::string(function) + ": no executor was planned" : last_refusal);
  }
  const Status status = guarded(function, [&] {
    const std::string name = function;
    enqueue(stream, [name, work = std::move(executor->work)] {
      try {
        work();
      } catch (const Error& error) {
        throw Error(error.code, name + ": " + error.what());
      }
    });
    if (executor->waits) synchronize(stream);
  });
  delete executor;
  return status;
}

View view(const aclTensor* tensor) {
  require(tensor != nullptr, "a tensor is missing");
  const View& v = tensor->view;
  int64_t first = 0, last = 0;
  for (int64_t d = 0; d < v.dim(); ++d) {
    if (v.sizes[d] == 0) return v;
    (v.strides[d] < 0 ? first : last) += (v.sizes[d] - 1) * v.strides[d];
  }
  const int64_t item = item_size(v.type);
  require_device(v.data + first * item, static_cast<size_t>((last - first + 1) * item), "a tensor");
  return v;
}

void require_sizes(const View& v, const Sizes& sizes) {
  auto text = [](const Sizes& s) {
    std::string list;
    for (int64_t size : s) list += (list.empty() ? "" : ", ") + std::to_string(size);
    return "[" + list + "]";
  };
  require(v.sizes == sizes, "the result must be " + text(sizes) + ", got " + text(v.sizes));
}

}  // namespace v4npu::runtime
