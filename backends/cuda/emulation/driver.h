// A libcuda.so.1 whose device is the host: the few entries that backends/cuda/driver.cpp uses, so that a launcher runs
// as it would before a GPU. A kernel file is a library made of the kernel's text (v4npu/testing/cuda.py). Launches are
// executed at once. emulation_... sets up the device and what memory it has, and tells what happened.
#pragma once

#include <cstring>

#include "../driver_abi.h"
#include "collective.h"

namespace v4npu::cuda::emulation {

struct Device {
  int major = 9, minor = 0, multiprocessors = 132, shared_optin = 227 << 10;
};
inline Device& device() {
  static Device d;
  return d;
}

struct Kernel {
  std::string name;
  void (*run)(const void*);
  int threads;
  size_t params;
  int cluster;
  int shared_limit = 48 << 10;
  bool asked = false, loaded = false;
};

enum Result : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kInvalidContext = 201,
  kFileNotFound = 301,
  kNotFound = 500,
  kIllegalAddress = 700,
  kLaunchFailed = 719,
  kCaptureUnsupported = 900,
};

// Whether a stream is captured; and of the calling thread the contexts, and whether it may do then what might wait.
inline bool& capturing() {
  static bool yes = false;
  return yes;
}
inline std::vector<void*>& contexts() {
  static thread_local std::vector<void*> pushed;
  return pushed;
}
inline int& capture_mode() {
  static thread_local int mode = 0;  // CU_STREAM_CAPTURE_MODE_GLOBAL, of 2 = RELAXED
  return mode;
}

// Whether launches are told, but not executed.
inline bool& dry() {
  static bool yes = false;
  return yes;
}

inline std::string& last_text() {
  static std::string text;
  return text;
}
inline std::string& launches() {
  static std::string text;
  return text;
}

inline int fail(Result code, const std::string& text) {
  last_text() = text;
  return code;
}

inline int launch(Kernel& k, Dims grid, int threads, size_t shared, const void* params, bool overlaps) {
  Block& b = block();
  if (threads != k.threads)
    return fail(kInvalidValue,
                k.name + " is compiled for " + std::to_string(k.threads) + " threads, not " + std::to_string(threads));
  if (shared > static_cast<size_t>(k.shared_limit))
    return fail(kInvalidValue, k.name + ": " + std::to_string(shared) + " bytes of shared memory, " +
                                   std::to_string(k.shared_limit) + " allowed");
  if (k.cluster > 1 && device().major < 9)
    return fail(kInvalidValue, k.name + " has clusters, which sm_90 begins with");
  if (grid.y % k.cluster != 0)
    return fail(kInvalidValue, k.name + ": clusters of " + std::to_string(k.cluster) + " in a grid of " +
                                   std::to_string(grid.y) + " blocks (y)");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535)
    return fail(kInvalidValue, k.name + ": a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) +
                                   " x " + std::to_string(grid.z));
  static uint32_t serial = 1;  // 1: what wrote a tensor before the first launch
  std::vector<unsigned char> copy(k.params + 16);
  auto* aligned = copy.data() + (16 - reinterpret_cast<uintptr_t>(copy.data()) % 16) % 16;
  std::memcpy(aligned, params, k.params);
  b.kernel = k.run;
  b.params = aligned;
  b.params_bytes = k.params;
  b.grid = grid;
  b.num_threads = threads;
  b.members = k.cluster;
  b.dynamic_bytes = shared;
  b.shared_limit = static_cast<size_t>(k.asked ? device().shared_optin : 48 << 10);
  b.shared.resize(static_cast<size_t>(b.members) * b.shared_stride() + 1024);
  b.shared_begin = b.shared.data() + (1024 - reinterpret_cast<uintptr_t>(b.shared.data()) % 1024) % 1024;
  memory().first_serial = serial + 1;
  b.failure.clear();
  launches() += k.name + " " + std::to_string(grid.x) + " " + std::to_string(grid.y) + " " + std::to_string(grid.z) +
                " " + std::to_string(threads) + " " + std::to_string(shared) + (overlaps ? " 1\n" : " 0\n");
  if (dry()) return kSuccess;
  for (b.first.z = 0; b.first.z < grid.z; ++b.first.z) {
    for (b.first.y = 0; b.first.y < grid.y; b.first.y += b.members) {
      for (b.first.x = 0; b.first.x < grid.x; ++b.first.x) {
        b.serial = serial + 1;
        serial += static_cast<uint32_t>(b.members);
        b.statics.clear();
        b.shared_bytes = shared;
        memory().shared.assign(static_cast<size_t>(b.members), std::vector<Shadow>(shared));
        std::memset(b.shared_begin, 0xff, static_cast<size_t>(b.members) * b.shared_stride());
        run_cluster();
        if (!b.failure.empty()) {
          b.running = -1;
          return fail(b.failure.rfind("illegal", 0) == 0 ? kIllegalAddress : kLaunchFailed, b.failure);
        }
      }
    }
  }
  return kSuccess;
}

}  // namespace v4npu::cuda::emulation

extern "C" {
using v4npu::cuda::emulation::Access;

void emulation_device(int major, int minor, int multiprocessors, int shared_optin) {
  auto& d = v4npu::cuda::emulation::device();
  d.major = major, d.minor = minor, d.multiprocessors = multiprocessors, d.shared_optin = shared_optin;
}

// Memory that kernels may touch from now on.
void emulation_region(void* data, size_t bytes, int access, const char* name) {
  auto& m = v4npu::cuda::emulation::memory();
  m.regions.push_back({static_cast<unsigned char*>(data), bytes, static_cast<Access>(access), name, {}});
  if (static_cast<Access>(access) == Access::kRead || v4npu::cuda::emulation::dry()) return;
  m.regions.back().shadow.resize(bytes);
  if (static_cast<Access>(access) == Access::kReadWrite) {
    for (auto& s : m.regions.back().shadow) s.writer.block = 1;
  }
}

void emulation_reset(const char* ignored_barrier) {
  auto& b = v4npu::cuda::emulation::block();
  v4npu::cuda::emulation::memory().regions.clear();
  b.ignored = ignored_barrier;
  b.barriers.clear();
  v4npu::cuda::emulation::launches().clear();
}

// "file:line" of every barrier passed since the reset, one a line.
const char* emulation_barriers() {
  static std::string text;
  text.clear();
  for (const std::string& barrier : v4npu::cuda::emulation::block().barriers) text += barrier + "\n";
  return text.c_str();
}

// name, grid, threads, bytes of shared memory of every launch since the reset, and whether it may overlap the one
// before, one a line.
const char* emulation_launches() { return v4npu::cuda::emulation::launches().c_str(); }

void emulation_dry(int on) { v4npu::cuda::emulation::dry() = on != 0; }
void emulation_capture(int on) { v4npu::cuda::emulation::capturing() = on != 0; }

// ---- the driver

int cuInit(unsigned) { return 0; }
int cuDeviceGet(int* handle, int ordinal) {
  *handle = ordinal;
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  const auto& d = v4npu::cuda::emulation::device();
  switch (attribute) {
    case 16: *value = d.multiprocessors; return 0;
    case 75: *value = d.major; return 0;
    case 76: *value = d.minor; return 0;
    case 97: *value = d.shared_optin; return 0;
    default: return v4npu::cuda::emulation::fail(v4npu::cuda::emulation::kInvalidValue, "no such attribute");
  }
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  if (v4npu::cuda::emulation::capturing() && v4npu::cuda::emulation::capture_mode() != 2)
    return v4npu::cuda::emulation::fail(v4npu::cuda::emulation::kCaptureUnsupported, "a stream is captured");
  static char of[8];
  *context = of + device;
  return 0;
}
int cuCtxPushCurrent_v2(void* context) {
  v4npu::cuda::emulation::contexts().push_back(context);
  return 0;
}
int cuCtxPopCurrent_v2(void** context) {
  auto& pushed = v4npu::cuda::emulation::contexts();
  if (pushed.empty()) return v4npu::cuda::emulation::fail(v4npu::cuda::emulation::kInvalidContext, "no context");
  *context = pushed.back();
  pushed.pop_back();
  return 0;
}
int cuThreadExchangeStreamCaptureMode(int* mode) {
  std::swap(*mode, v4npu::cuda::emulation::capture_mode());
  return 0;
}

int cuLibraryLoadFromFile(void** library, const char* path, void*, void*, unsigned, void*, void*, unsigned) {
  if (v4npu::cuda::emulation::capturing() && v4npu::cuda::emulation::capture_mode() != 2)
    return v4npu::cuda::emulation::fail(v4npu::cuda::emulation::kCaptureUnsupported, "a stream is captured");
  *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (*library != nullptr) return 0;
  return v4npu::cuda::emulation::fail(v4npu::cuda::emulation::kFileNotFound, dlerror());
}

int cuLibraryGetKernel(void** kernel, void* library, const char* name) {
  using v4npu::cuda::emulation::Kernel;
  const std::string base = name;
  void* run = dlsym(library, name);
  const auto* threads = static_cast<const int*>(dlsym(library, (base + "_threads").c_str()));
  const auto* params = static_cast<const size_t*>(dlsym(library, (base + "_params").c_str()));
  const auto* cluster = static_cast<const int*>(dlsym(library, (base + "_cluster").c_str()));
  if (run == nullptr || threads == nullptr || params == nullptr || cluster == nullptr)
    return v4npu::cuda::emulation::fail(v4npu::cuda::emulation::kNotFound, "named symbol not found");
  static std::vector<std::unique_ptr<Kernel>> kernels;
  kernels.push_back(std::make_unique<Kernel>(
      Kernel{base, reinterpret_cast<void (*)(const void*)>(run), *threads, *params, *cluster}));
  *kernel = kernels.back().get();
  return 0;
}

// What a driver loads late, once a context asks.
int cuKernelGetFunction(void** function, void* kernel) {
  using namespace v4npu::cuda::emulation;
  if (contexts().empty()) return fail(kInvalidContext, "invalid device context");
  if (capturing() && capture_mode() != 2) return fail(kCaptureUnsupported, "a stream is captured");
  static_cast<Kernel*>(kernel)->loaded = true;
  *function = kernel;
  return 0;
}

int cuKernelSetAttribute(int attribute, int value, void* kernel, int) {
  if (attribute != 8 || value > v4npu::cuda::emulation::device().shared_optin)
    return v4npu::cuda::emulation::fail(v4npu::cuda::emulation::kInvalidValue, "invalid argument");
  static_cast<v4npu::cuda::emulation::Kernel*>(kernel)->shared_limit = value;
  static_cast<v4npu::cuda::emulation::Kernel*>(kernel)->asked = true;
  return 0;
}

int cuLaunchKernelEx(const v4npu::cuda::LaunchConfig* config, void* kernel, void** params, void**) {
  using namespace v4npu::cuda::emulation;
  auto& k = *static_cast<Kernel*>(kernel);
  if (contexts().empty()) return fail(kInvalidContext, "invalid device context");
  if (config->block[1] != 1 || config->block[2] != 1) return fail(kInvalidValue, "blocks are 1D");
  if (capturing() && !k.loaded) return fail(kCaptureUnsupported, "a stream is captured");
  for (uint32_t i = 0; i < config->num_attributes; ++i) {
    const v4npu::cuda::LaunchAttribute& a = config->attributes[i];
    if (a.id != v4npu::cuda::kProgrammaticSerialization || a.value[0] != 1 || device().major < 9)
      return fail(kInvalidValue, "no such attribute of a launch");
  }
  const auto* grid = config->grid;
  return launch(k, {static_cast<int>(grid[0]), static_cast<int>(grid[1]), static_cast<int>(grid[2])},
                static_cast<int>(config->block[0]), config->shared_bytes, params[0], config->num_attributes > 0);
}

int cuGetErrorName(int code, const char** name) {
  *name = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR";
  return 0;
}
int cuGetErrorString(int, const char** text) {
  *text = v4npu::cuda::emulation::last_text().c_str();
  return 0;
}
}
