// window_attention on the CPU: paged/attention.h.
#include "v4npu/ops/window_attention.h"

#include "paged/attention.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

void window_attention(const WindowAttentionParams& p) { run(common(p), p.dtype); }

}  // namespace v4npu::cpu::V4NPU_ISA
