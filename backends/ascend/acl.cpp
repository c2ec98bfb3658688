#include "acl.h"

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>

namespace v4npu::ascend {
namespace {

struct Loaded {
  Acl acl{};
  std::string reason;  // why not; empty if it is there
};

template <typename F>
void find(void* library, const char* name, F& function, std::string& reason) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr) reason = std::string("the Ascend runtime has no ") + name;
}

Loaded look() {
  Loaded found;
  void* library = dlopen("libascendcl.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) {
    found.reason = "torch-npu has loaded no Ascend runtime";
    return found;
  }
  find(library, "aclrtGetSocName", found.acl.soc_name, found.reason);
  find(library, "aclGetDeviceCapability", found.acl.capability, found.reason);
  find(library, "aclrtBinaryLoadFromFile", found.acl.load, found.reason);
  find(library, "aclrtBinaryGetFunction", found.acl.function, found.reason);
  find(library, "aclrtLaunchKernelWithHostArgs", found.acl.launch, found.reason);
  find(library, "aclGetRecentErrMsg", found.acl.message, found.reason);
  return found;
}

}  // namespace

const Acl* acl(std::string* reason) {
  thread_local Loaded found = look();
  if (!found.reason.empty()) found = look();  // torch-npu may be imported after this extension
  if (reason != nullptr) *reason = found.reason;
  return found.reason.empty() ? &found.acl : nullptr;
}

void require_success(int status, const char* call) {
  if (status == 0) return;
  const char* text = acl()->message();
  throw std::runtime_error(std::string(call) + " failed with status " + std::to_string(status) + ": " +
                           (text == nullptr ? "no message" : text));
}

const char* kernel_path() {
  const char* path = std::getenv("V4NPU_ASCEND_KERNELS");
  return path == nullptr || *path == '\0' ? nullptr : path;
}

}  // namespace v4npu::ascend
