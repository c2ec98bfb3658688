#include "launch.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "torch/csrc/stable/accelerator.h"

// Of torch 2.13 on; null in an older one.
extern "C" __attribute__((weak)) AOTITorchError torch_stream_native_handle(StreamHandle stream, void** handle);

namespace v4npu::ascend {
namespace {

// The current stream as the runtime knows it. torch-npu sends on what it has queued on the host before it hands it out;
// so the stream is fetched last, after outputs are allocated.
void* current_stream(const Tensor& x) {
  StreamHandle owned = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_stream(x.get_device_index(), &owned));
  const std::unique_ptr<StreamOpaque, AOTITorchError (*)(StreamHandle)> stream(owned, &aoti_torch_delete_stream);
  void* handle = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_stream_native_handle(stream.get(), &handle));
  return handle;
}

// Kernels by name, of the one binary; loaded on first use and kept.
void* function_of(const std::string& kernel) {
  static std::mutex mutex;
  static void* binary = nullptr;
  static std::map<std::string, void*> functions;
  const std::lock_guard lock(mutex);
  if (binary == nullptr) require_success(acl()->load(kernel_path(), nullptr, &binary), "aclrtBinaryLoadFromFile");
  void*& function = functions[kernel];
  if (function == nullptr)
    require_success(acl()->function(binary, kernel.c_str(), &function), "aclrtBinaryGetFunction");
  return function;
}

int64_t num_cores(const Tensor& x, Core core) {
  const int information = static_cast<int>(core);  // ACL_DEVICE_INFO_AI_CORE_NUM, ACL_DEVICE_INFO_VECTOR_CORE_NUM
  const auto device = static_cast<uint32_t>(x.get_device_index());
  int64_t cores = 0;
  require_success(acl()->capability(device, information, &cores), "aclGetDeviceCapability");
  return cores;
}

}  // namespace

bool ready() { return torch_stream_native_handle != nullptr && acl() != nullptr && kernel_path() != nullptr; }

int architecture() { return ascend_architecture(acl()->soc_name()); }

AscendTiles tiles_of(const Tensor& x, int64_t num_tokens, int64_t num_rows, int64_t groups) {
  return plan_ascend_tiles(architecture(), num_tokens, num_rows, groups, num_cores(x, Core::kCube));
}

int64_t head_tile(const Tensor& q, int64_t num_tokens, int64_t num_heads) {
  return plan_ascend_head_tile(static_cast<int64_t>(q.element_size()), num_tokens, num_heads,
                               num_cores(q, Core::kCube));
}

AscendTopkPlan topk_plan(const Tensor& q, int64_t num_tokens, int64_t width) {
  return plan_ascend_topk(num_tokens, width, num_cores(q, Core::kVector));
}

int64_t blocks_of(const Tensor& x, Core core, int64_t pieces) { return std::min(pieces, num_cores(x, core)); }

void launch_packed(const std::string& kernel, Core core, int64_t pieces, const Tensor& x, void* arguments,
                   size_t bytes) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  void* function = function_of(kernel);
  const auto blocks = static_cast<uint32_t>(blocks_of(x, core, pieces));
  require_success(acl()->launch(function, blocks, current_stream(x), nullptr, arguments, bytes, nullptr, 0),
                  "aclrtLaunchKernelWithHostArgs");
}

}  // namespace v4npu::ascend
