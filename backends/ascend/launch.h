// What an Ascend launcher needs: which tensors kernels take, their packed arguments, and the launch on torch's stream.
#pragma once

#include <array>
#include <cstring>
#include <string>

#include "acl.h"
#include "ops/checks.h"
#include "ops/reference.h"
#include "ops/tensors.h"
#include "plan/ascend.h"
#include "torch/csrc/stable/library.h"

namespace v4npu::ascend {

// "fp32", "bf16" or "fp16" as kernels are named; "" for a dtype that is the reference's.
inline std::string suffix(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return "fp32";
    case ScalarType::BFloat16: return "bf16";
    case ScalarType::Half: return "fp16";
    default: return "";
  }
}

// Whether the kernels can be launched here at all.
bool ready();

inline void* pointer(const Tensor& t) { return t.numel() > 0 ? const_cast<void*>(t.const_data_ptr()) : nullptr; }
inline void* pointer(const OptTensor& t) { return t ? pointer(*t) : nullptr; }

enum class Core { kCube, kVector };  // as aclGetDeviceCapability counts them

int architecture();  // 2201 or 3510

// How a product is dealt to the cube cores of x's device.
AscendTiles tiles_of(const Tensor& x, int64_t num_tokens, int64_t num_rows, int64_t groups);

// How many heads of a token an attention kernel takes at a time.
int64_t head_tile(const Tensor& q, int64_t num_tokens, int64_t num_heads);

// How indexer_topk deals its tokens to the vector cores.
AscendTopkPlan topk_plan(const Tensor& q, int64_t num_tokens, int64_t width);

// How many blocks a launch of that many pieces of work has: at most one to a core.
int64_t blocks_of(const Tensor& x, Core core, int64_t pieces);

// Launches `kernel` on the current stream of x's device, on at most one core a piece of work.
//
// A launch may be captured into a graph and run again on other contents of the same tensors. So no launcher waits or
// reads what a tensor holds, and blocks and arguments follow from shapes, dtypes and the chip alone; what depends on
// contents the kernel reads for itself, or a kernel before it writes into a plan (common/query_plan.h).
void launch_packed(const std::string& kernel, Core core, int64_t pieces, const Tensor& x, void* arguments,
                   size_t bytes);

// Arguments as the kernel declares them: each at its own alignment, the whole a multiple of 8 bytes.
template <typename... Args>
void launch_on(Core core, const std::string& kernel, int64_t pieces, const Tensor& x, Args... args) {
  std::array<char, (sizeof(Args) + ... + 0) + 8 * (sizeof...(Args) + 1)> packed{};
  size_t at = 0;
  ((at = (at + alignof(Args) - 1) / alignof(Args) * alignof(Args), std::memcpy(packed.data() + at, &args, sizeof(Args)),
    at += sizeof(Args)),
   ...);
  if (pieces > 0) launch_packed(kernel, core, pieces, x, packed.data(), (at + 7) / 8 * 8);
}

template <typename... Args>
void launch(const std::string& kernel, int64_t num_rows, const Tensor& x, Args... args) {
  launch_on(Core::kVector, kernel, num_rows, x, args...);
}

}  // namespace v4npu::ascend
