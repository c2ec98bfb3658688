#include "driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <stdexcept>

#include "driver_abi.h"
#include "plan/gpu.h"

namespace v4npu::cuda {
namespace {

using Library = void*;
using Kernel = void*;
using Context = void*;

template <class Function>
Function symbol(void* library, const char* name, const char* of) {
  void* found = dlsym(library, name);
  if (found == nullptr) throw std::runtime_error("v4npu: " + std::string(of) + " has no " + name);
  return reinterpret_cast<Function>(found);
}

// The entries of libcuda.so.1 that we use.
struct Driver {
  int (*get_device)(int*, int);
  int (*attribute)(int*, int, int);
  int (*retain)(Context*, int);
  int (*push)(Context);
  int (*pop)(Context*);
  int (*exchange_mode)(int*);
  int (*load)(Library*, const char*, void*, void*, unsigned, void*, void*, unsigned);
  int (*kernel)(Kernel*, Library, const char*);
  int (*function)(void**, Kernel);
  int (*set_attribute)(int, int, Kernel, int);
  int (*launch)(const LaunchConfig*, Kernel, void**, void**);
  int (*error_name)(int, const char**);
  int (*error_text)(int, const char**);

  Driver() {
    constexpr const char* name = "libcuda.so.1";
    void* library = dlopen(name, RTLD_NOW);
    if (library == nullptr)
      throw std::runtime_error(std::string("v4npu: the CUDA driver cannot be loaded: ") + dlerror());
    const auto find = [&](auto& entry, const char* symbol_name) {
      entry = symbol<std::remove_reference_t<decltype(entry)>>(library, symbol_name, name);
    };
    find(get_device, "cuDeviceGet");
    find(attribute, "cuDeviceGetAttribute");
    find(retain, "cuDevicePrimaryCtxRetain");
    find(push, "cuCtxPushCurrent_v2");
    find(pop, "cuCtxPopCurrent_v2");
    find(exchange_mode, "cuThreadExchangeStreamCaptureMode");
    find(load, "cuLibraryLoadFromFile");
    find(kernel, "cuLibraryGetKernel");
    find(function, "cuKernelGetFunction");
    find(set_attribute, "cuKernelSetAttribute");
    find(launch, "cuLaunchKernelEx");
    find(error_name, "cuGetErrorName");
    find(error_text, "cuGetErrorString");
    int (*init)(unsigned);
    find(init, "cuInit");
    check(init(0), "cuInit");
  }

  void check(int code, const std::string& what) const {
    if (code == 0) return;
    const char *label = "", *text = "";
    error_name(code, &label);
    error_text(code, &text);
    // Of CUresult, what a kernel did while it ran; no call waits for that.
    const bool late = code == 700 || code == 702 || (code >= 710 && code < 720);
    throw std::runtime_error("v4npu: " + what + " failed: " + (label != nullptr ? label : "unknown error") + ", " +
                             (text != nullptr ? text : "no text") +
                             (late ? " (here or in a launch before: CUDA_LAUNCH_BLOCKING=1 tells)" : ""));
  }
};

const Driver& driver() {
  static const Driver opened;
  return opened;
}

// A device's primary context, which is torch's and stays as long as the process; and whether blocks of a kernel may
// come to it while those of the one before end, which begins with sm_90.
struct Device {
  Context context = nullptr;
  bool overlaps = false;
};

// Files and kernels, loaded once; the driver keeps them for all devices. Guarded by its mutex.
struct Loaded {
  std::mutex mutex;
  std::map<std::string, Library> files;
  std::map<std::string, Kernel> kernels;
  std::map<std::pair<Kernel, int>, int64_t> shared_bytes;  // allowed on a device
  std::map<int, DeviceCaps> devices;
  std::map<int, Device> opened;
};

Loaded& loaded() {
  static Loaded cache;
  return cache;
}

// A tensor on the CPU is only ever seen by a test, whose driver takes host memory.
int ordinal(const torch::stable::Tensor& t) { return t.is_cuda() ? t.get_device_index() : 0; }

// While it lives, the calling thread may do what a capture of a stream forbids because it might wait: load a kernel
// that is first seen there.
struct Relaxed {
  int mode = kRelaxedCapture;
  Relaxed() { driver().check(driver().exchange_mode(&mode), "cuThreadExchangeStreamCaptureMode"); }
  ~Relaxed() { driver().exchange_mode(&mode); }
};

Device open_device(int device) {
  Device& opened = loaded().opened[device];
  if (opened.context == nullptr) {
    const Relaxed relaxed;
    int handle = 0, major = 0;
    driver().check(driver().get_device(&handle, device), "cuDeviceGet");
    driver().check(driver().attribute(&major, kMajor, handle), "cuDeviceGetAttribute");
    const char* asked = std::getenv("V4NPU_CUDA_OVERLAP");
    opened.overlaps = major >= 9 && (asked == nullptr || std::string(asked) != "0");
    driver().check(driver().retain(&opened.context, handle), "cuDevicePrimaryCtxRetain");
  }
  return opened;
}

// While it lives, `context` is the calling thread's. A thread has none before its first call of the runtime, and that
// of another device where the caller has several.
struct Current {
  explicit Current(Context context) { driver().check(driver().push(context), "cuCtxPushCurrent"); }
  ~Current() {
    Context ignored = nullptr;
    driver().pop(&ignored);
  }
};

Kernel find_kernel(const std::string& op, const std::string& name) {
  Loaded& cache = loaded();
  if (const auto found = cache.kernels.find(name); found != cache.kernels.end()) return found->second;
  const Relaxed relaxed;
  const std::string path = kernel_folder() + "/" + op + ".fatbin";
  if (cache.files.count(op) == 0) {
    Library library = nullptr;
    driver().check(driver().load(&library, path.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0), "loading " + path);
    cache.files[op] = library;
  }
  Kernel kernel = nullptr;
  driver().check(driver().kernel(&kernel, cache.files[op], name.c_str()), "finding " + name + " in " + path);
  return cache.kernels[name] = kernel;
}

struct Ready {
  Kernel kernel;
  Device device;
};

// What a launch needs besides the stream; loaded by the first that asks.
Ready prepare(const std::string& op, const std::string& name, int device, int64_t shared_bytes) {
  const std::lock_guard lock(loaded().mutex);
  const Ready ready{find_kernel(op, name), open_device(device)};
  const auto [found, first] = loaded().shared_bytes.try_emplace({ready.kernel, device}, 0);
  int64_t& allowed = found->second;
  if (!first && shared_bytes <= allowed) return ready;
  const Relaxed relaxed;
  const Current current(ready.device.context);
  void* function = nullptr;  // asked for, it is on the device, which the driver else leaves to the launch
  driver().check(driver().function(&function, ready.kernel), "loading " + name);
  if (shared_bytes <= allowed) return ready;
  // Little is asked for too: with what has a static size it may be more than a kernel has unasked.
  int handle = 0;
  driver().check(driver().get_device(&handle, device), "cuDeviceGet");
  driver().check(driver().set_attribute(kMaxSharedBytes, static_cast<int>(shared_bytes), ready.kernel, handle),
                 std::to_string(shared_bytes) + " bytes of shared memory for " + name);
  allowed = shared_bytes;
  return ready;
}

// As torch sees it; torch's own CUDA library is in the process when a CUDA tensor is.
void* current_stream(int device) {
  using Entry = int32_t (*)(int32_t, void**);
  static const Entry entry = [] {
    constexpr const char* symbol_name = "aoti_torch_get_current_cuda_stream";
    // A torch with CUDA has its library in the process from the first, and no device to ask for beside an emulated one:
    // the emulator's entry is found in the global scope, where torch puts none.
    if (void* emulated = dlsym(RTLD_DEFAULT, symbol_name)) return reinterpret_cast<Entry>(emulated);
    constexpr const char* name = "libtorch_cuda.so";
    void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr)
      throw std::runtime_error("v4npu: this torch is built without CUDA: no libtorch_cuda.so is loaded");
    return symbol<Entry>(library, symbol_name, name);
  }();
  void* stream = nullptr;
  if (entry(device, &stream) != 0) throw std::runtime_error("v4npu: torch has no current CUDA stream");
  return stream;
}

}  // namespace

std::string kernel_folder() {
  std::filesystem::path folder;
  if (const char* asked = std::getenv("V4NPU_CUDA_KERNELS"); asked != nullptr && *asked != 0) {
    folder = asked;
  } else {
    Dl_info self{};
    if (dladdr(reinterpret_cast<void*>(&kernel_folder), &self) == 0) return "";
    folder = std::filesystem::path(self.dli_fname).parent_path() / "cuda";
  }
  std::error_code ignored;
  return std::filesystem::is_directory(folder, ignored) ? folder.string() : "";
}

const DeviceCaps& caps_of(const torch::stable::Tensor& t) {
  const int device = ordinal(t);
  const std::lock_guard lock(loaded().mutex);
  if (const auto found = loaded().devices.find(device); found != loaded().devices.end()) return found->second;
  DeviceCaps caps;
  caps.kind = "cuda";
  int handle = 0, major = 0, minor = 0;
  driver().check(driver().get_device(&handle, device), "cuDeviceGet");
  const auto ask = [&](int& value, int attribute) {
    driver().check(driver().attribute(&value, attribute, handle), "cuDeviceGetAttribute");
  };
  int shared = 0;
  ask(shared, kSharedOptin);
  caps.shared_bytes = shared;
  ask(major, kMajor);
  ask(minor, kMinor);
  ask(caps.num_cores, kMultiprocessors);
  caps.name = "sm_" + std::to_string(major) + std::to_string(minor);
  if (!kernel_folder().empty()) caps.features.emplace_back(kCudaKernels);
  caps.reason = refuses_cuda(caps);
  caps.available = caps.reason.empty();
  return loaded().devices[device] = caps;
}

void launch(const char* op, const std::string& name, Grid grid, int threads, int64_t shared_bytes, const void* params,
            const torch::stable::Tensor& on) {
  const auto what = [&] {
    const std::string shape = std::to_string(grid.x) + ", " + std::to_string(grid.y) + ", " + std::to_string(grid.z);
    return "v4npu." + std::string(op) + ", " + name + " <<<(" + shape + "), " + std::to_string(threads) + ", " +
           std::to_string(shared_bytes) + ">>>";
  };
  if (grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ)
    throw std::runtime_error(what() + ": more blocks than a launch of CUDA may have");
  const int device = ordinal(on);
  const Ready ready = prepare(op, name, device, shared_bytes);
  const Current current(ready.device.context);
  void* arguments[] = {const_cast<void*>(params)};
  // Its blocks may come to the device while those of the kernel before end: they wait there (V4NPU_KERNEL).
  LaunchAttribute overlaps{kProgrammaticSerialization, 0, {1}};
  const LaunchConfig config{
      {static_cast<uint32_t>(grid.x), static_cast<uint32_t>(grid.y), static_cast<uint32_t>(grid.z)},
      {static_cast<uint32_t>(threads), 1, 1},
      static_cast<uint32_t>(shared_bytes),
      current_stream(device),
      &overlaps,
      ready.device.overlaps ? 1u : 0u};
  if (const int code = driver().launch(&config, ready.kernel, arguments, nullptr); code != 0)
    driver().check(code, what());
}

}  // namespace v4npu::cuda
