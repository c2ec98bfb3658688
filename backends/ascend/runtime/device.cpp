// Initialisation, the one device, its context and what it says about itself.
#include "device.h"

#include <cctype>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "error.h"
#include "memory.h"
#include "stream.h"

namespace v4npu::runtime {
namespace {

thread_local std::string recent_message;
thread_local std::string returned_message;
thread_local bool has_context = false;  // a device is set for this thread
char the_context;                       // its address stands for the device's one context

// "ascend950dt_9581" -> "Ascend950DT_9581", as the vendor writes it.
std::string vendor_name(std::string name) {
  name[0] = 'A';
  for (size_t i = std::strlen("ascend"); i < name.size(); ++i)
    name[i] = static_cast<char>(std::toupper(static_cast<unsigned char>(name[i])));
  return name;
}

void check_device(int32_t device) {
  require(device == 0, "there is one emulated device, number 0, got " + std::to_string(device),
          ACL_ERROR_RT_INVALID_DEVICEID);
}

int64_t resource(int type) {
  require(type == ACL_RT_DEV_RES_CUBE_CORE || type == ACL_RT_DEV_RES_VECTOR_CORE, "unknown resource");
  return type == ACL_RT_DEV_RES_CUBE_CORE ? sku().num_cube : sku().num_vector;
}

}  // namespace

Status fail(Status code, const std::string& text) {
  recent_message = "emulated Ascend runtime: " + text;
  return code;
}

const emulation::Sku& sku() {
  const char* name = std::getenv("V4NPU_EMULATE_SOC");
  static const emulation::Sku* chosen = emulation::find_sku(name == nullptr ? "" : name);
  require(chosen != nullptr, "V4NPU_EMULATE_SOC must name a chip of emulation/skus.h; run under `v4npu emulate`");
  return *chosen;
}

}  // namespace v4npu::runtime

using namespace v4npu::runtime;

ACL_API const char* aclGetRecentErrMsg() {
  returned_message.swap(recent_message);
  recent_message.clear();
  return returned_message.empty() ? nullptr : returned_message.c_str();
}

ACL_API Status aclInit(const char*) {
  return guarded("aclInit", [] { sku(); });
}
ACL_API Status aclFinalize() { return ACL_SUCCESS; }

ACL_API Status aclrtGetDeviceCount(uint32_t* count) {
  *count = 1;
  return ACL_SUCCESS;
}

ACL_API Status aclrtSetDevice(int32_t device) {
  return guarded("aclrtSetDevice", [&] {
    check_device(device);
    has_context = true;
  });
}

ACL_API Status aclrtGetDevice(int32_t* device) {
  if (!has_context) return fail(ACL_ERROR_RT_CONTEXT_NULL, "aclrtGetDevice: no device is set on this thread");
  *device = 0;
  return ACL_SUCCESS;
}

ACL_API Status aclrtResetDevice(int32_t device) {
  return guarded("aclrtResetDevice", [&] {
    check_device(device);
    synchronize_all();
    has_context = false;
  });
}

ACL_API Status aclrtGetCurrentContext(ContextHandle* context) {
  if (!has_context) return fail(ACL_ERROR_RT_CONTEXT_NULL, "aclrtGetCurrentContext: no device is set on this thread");
  *context = &the_context;
  return ACL_SUCCESS;
}

ACL_API Status aclrtSetCurrentContext(ContextHandle context) {
  return guarded("aclrtSetCurrentContext", [&] {
    require(context == &the_context, "unknown context");
    has_context = true;
  });
}

ACL_API Status aclrtGetPrimaryCtxState(int32_t device, uint32_t* flags, int32_t* active) {
  return guarded("aclrtGetPrimaryCtxState", [&] {
    check_device(device);
    if (flags != nullptr) *flags = 0;
    *active = has_context ? 1 : 0;
  });
}

ACL_API const char* aclrtGetSocName() {
  static std::string name;
  const Status status = guarded("aclrtGetSocName", [] { name = vendor_name(std::string(sku().name)); });
  return status == ACL_SUCCESS ? name.c_str() : nullptr;
}

ACL_API Status aclGetDeviceCapability(uint32_t device, int info, int64_t* value) {
  return guarded("aclGetDeviceCapability", [&] {
    check_device(static_cast<int32_t>(device));
    switch (info) {
      case ACL_DEVICE_INFO_AI_CORE_NUM: *value = sku().num_cube; return;
      case ACL_DEVICE_INFO_VECTOR_CORE_NUM: *value = sku().num_vector; return;
      case ACL_DEVICE_INFO_L2_SIZE: *value = (sku().arch == 2201 ? 192 : 128) << 20; return;  // architecture pages
    }
    throw Error(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "no value for information " + std::to_string(info));
  });
}

ACL_API Status aclrtGetDeviceInfo(uint32_t device, int attribute, int64_t* value) {
  return guarded("aclrtGetDeviceInfo", [&] {
    check_device(static_cast<int32_t>(device));
    switch (attribute) {
      case ACL_DEV_ATTR_AICORE_CORE_NUM:
      case ACL_DEV_ATTR_CUBE_CORE_NUM: *value = sku().num_cube; return;
      case ACL_DEV_ATTR_VECTOR_CORE_NUM: *value = sku().num_vector; return;
      case ACL_DEV_ATTR_UBUF_PER_VECTOR_CORE: *value = v4npu::emulation::limits_of(sku()).ub; return;
      case ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE: *value = total_memory(); return;
    }
    throw Error(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "no value for attribute " + std::to_string(attribute));
  });
}

ACL_API Status aclrtGetDeviceResLimit(int32_t device, int type, uint32_t* value) {
  return guarded("aclrtGetDeviceResLimit", [&] {
    check_device(device);
    *value = static_cast<uint32_t>(resource(type));
  });
}
ACL_API Status aclrtGetStreamResLimit(StreamHandle, int type, uint32_t* value) {
  return guarded("aclrtGetStreamResLimit", [&] { *value = static_cast<uint32_t>(resource(type)); });
}
ACL_API Status aclrtGetResInCurrentThread(int type, uint32_t* value) {
  return guarded("aclrtGetResInCurrentThread", [&] { *value = static_cast<uint32_t>(resource(type)); });
}

ACL_API Status aclrtDeviceCanAccessPeer(int32_t* can, int32_t, int32_t) {
  *can = 0;
  return ACL_SUCCESS;
}

// The release whose behaviour torch-npu 2.13 is written for; choices in torch_npu depend on it.
ACL_API Status aclsysGetCANNVersion(int, PackageVersion* version) {
  std::memset(version, 0, sizeof *version);
  std::strcpy(version->version, "9.1.0");
  std::strcpy(version->major, "9");
  std::strcpy(version->minor, "1");
  std::strcpy(version->release, "0");
  return ACL_SUCCESS;
}

// Host arithmetic keeps infinities and NaNs, never stops at an overflow and has no time limits: these settings are
// accepted only where they ask for that.
ACL_API Status aclrtSetDeviceSatMode(int mode) {
  constexpr int kInfNan = 1;
  if (mode == kInfNan) return ACL_SUCCESS;
  return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "aclrtSetDeviceSatMode: only infinity/NaN mode is emulated");
}
ACL_API Status aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
ACL_API Status aclrtSetOpExecuteTimeOutV2(uint64_t timeout, uint64_t* actual) {
  *actual = timeout;
  return ACL_SUCCESS;
}
ACL_API Status aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }

namespace {
std::mutex options_mutex;
std::map<int, int64_t>& system_options() {
  static std::map<int, int64_t> kept;
  return kept;
}
std::map<int, std::string>& options() {
  static std::map<int, std::string> kept;
  return kept;
}
std::string option(int key) {
  const std::lock_guard lock(options_mutex);
  const auto found = options().find(key);
  return found == options().end() ? "disable" : found->second;
}
}  // namespace

// Options that ask for the same bits every time, which every operator here gives: kept only.
ACL_API Status aclrtSetSysParamOpt(int key, int64_t value) {
  const std::lock_guard lock(options_mutex);
  system_options()[key] = value;
  return ACL_SUCCESS;
}
ACL_API Status aclrtGetSysParamOpt(int key, int64_t* value) {
  const std::lock_guard lock(options_mutex);
  *value = system_options()[key];
  return ACL_SUCCESS;
}
ACL_API Status aclrtCtxSetSysParamOpt(int key, int64_t value) { return aclrtSetSysParamOpt(key, value); }

// One device has no collectives, so their order is settled too.
ACL_API int HcclSetConfig(int, int32_t) { return ACL_SUCCESS; }

// Options of the operator compiler: kept, as nothing is compiled here.
ACL_API Status aclSetCompileopt(int key, const char* value) {
  const std::lock_guard lock(options_mutex);
  options()[key] = value;
  return ACL_SUCCESS;
}
ACL_API size_t aclGetCompileoptSize(int key) { return option(key).size() + 1; }
ACL_API Status aclGetCompileopt(int key, char* value, size_t length) {
  const std::string text = option(key);
  if (length <= text.size()) return fail(ACL_ERROR_INVALID_PARAM, "aclGetCompileopt: buffer too small");
  std::memcpy(value, text.c_str(), text.size() + 1);
  return ACL_SUCCESS;
}

// Shown where CANN would print it.
ACL_API void aclAppLog(int level, const char*, const char* file, uint32_t line, const char* format, ...) {
  static const bool shown = [] {
    const char* set = std::getenv("ASCEND_SLOG_PRINT_TO_STDOUT");
    return set != nullptr && std::strcmp(set, "1") == 0;
  }();
  if (!shown) return;
  std::printf("[ascend %d] %s:%u ", level, file, line);
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

// There is no profiler: what registers for one is never called back.
ACL_API int32_t MsprofRegisterCallback(uint32_t, void*) { return 0; }
ACL_API uint64_t MsprofGetHashId(const char*, size_t) { return 0; }
ACL_API uint64_t MsprofSysCycleTime() { return 0; }
ACL_API int32_t MsprofReportApi(uint32_t, const void*) { return 0; }
ACL_API int32_t MsprofReportAdditionalInfo(uint32_t, const void*, uint32_t) { return 0; }
ACL_API int32_t MsprofReportCompactInfo(uint32_t, const void*, uint32_t) { return 0; }
